"""Every backend that so many ranks go through, one after another.

    mpirun -n N python -m tests.mpi_backend.world FOLDER

The collective operations halve a message for two, share it out evenly among four and unevenly among
three.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch.distributed as dist

from pcode import mpi_backend
from pcode.launch.environment import detect
from tests.mpi_backend.contract import CHECKS, names
from tests.support.cases import LIMIT, Checks, go_through

# By the number of ranks. gloo comes first, in processes that have not initialized MPI.
BACKENDS = {2: ["mpi"], 3: ["gloo", "mpi"], 4: ["mpi"]}


def expected(num_ranks: int) -> list[tuple[str, str]]:
    """The backend and the name of every check."""
    return [(backend, check) for backend in BACKENDS[num_ranks] for check in names(backend)]


@contextmanager
def process_group(backend: str, store: Path) -> Iterator[Checks]:
    """The contract of torch.distributed's backends."""
    place = detect()
    assert place is not None, "to be started by mpirun"
    if backend == "mpi":
        mpi_backend.init_process_group(LIMIT)
    else:
        dist.init_process_group(
            backend,
            init_method=f"file://{store}",
            rank=place.rank,
            world_size=place.num_ranks,
            timeout=LIMIT,
        )
    yield {name: CHECKS[name] for name in names(backend)}
    dist.destroy_process_group()


def main(folder: Path) -> None:
    """Run one rank."""
    place = detect()
    assert place is not None, "to be started by mpirun"
    cases = {
        backend: partial(process_group, backend, folder / f"store of {backend}")
        for backend in BACKENDS[place.num_ranks]
    }
    go_through(folder, cases)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
