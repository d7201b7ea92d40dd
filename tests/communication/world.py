"""Every communicator and every backend that so many ranks go through, one after another.

    mpirun -n N python -m tests.communication.world FOLDER

Two ranks have one neighbour each, which is both sides of the ring, three have two, and of four one
is no neighbour. The collective operations halve a message for two, share it out evenly among four
and unevenly among three. Nodes of two processes need four.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch.distributed as dist

from pcode.communication import mpi
from pcode.communication.connect import disconnect
from pcode.launch import detect
from tests.communication import backend_contract
from tests.communication.contract import CHECKS, checks_of, join
from tests.support.cases import LIMIT, Checks, go_through

# (backend, processes of a node) by the number of ranks. Those over gloo come first, so that they
# run in processes that have not initialized MPI.
COMMUNICATORS = {
    2: [("mpi", 1), ("mpi+direct", 1)],
    3: [("gloo", 1), ("gloo+beside", 1)],
    4: [
        *(("gloo", 2), ("gloo+staged", 2), ("gloo+beside", 2)),
        *(("mpi", 1), ("mpi+staged", 1), ("mpi", 2), ("mpi+staged", 2)),
    ],
}
BACKENDS = {2: ["mpi"], 3: ["gloo", "mpi"], 4: ["mpi"]}


def communicator_case(backend: str, num_parts: int) -> str:
    """The name of a communicator's case."""
    return f"communicator {backend}, {num_parts} to a node"


def backend_case(backend: str) -> str:
    """The name of a backend's case."""
    return f"backend {backend}"


def expected(num_ranks: int) -> list[tuple[str, str]]:
    """The case and the name of every check."""
    return [
        *(
            (communicator_case(*communicator), check)
            for communicator in COMMUNICATORS[num_ranks]
            for check in CHECKS
        ),
        *(
            (backend_case(backend), check)
            for backend in BACKENDS[num_ranks]
            for check in backend_contract.names(backend)
        ),
    ]


@contextmanager
def communicator(backend: str, num_parts: int) -> Iterator[Checks]:
    """The contract of communicators."""
    yield checks_of(join(backend, num_parts, LIMIT.total_seconds()))
    disconnect()


@contextmanager
def process_group(backend: str, store: Path) -> Iterator[Checks]:
    """The contract of torch.distributed's backends."""
    place = detect()
    assert place is not None
    if backend == "mpi":
        mpi.init_process_group(LIMIT)
    else:
        dist.init_process_group(
            backend,
            init_method=f"file://{store}",
            rank=place.rank,
            world_size=place.num_ranks,
            timeout=LIMIT,
        )
    yield {name: backend_contract.CHECKS[name] for name in backend_contract.names(backend)}
    dist.destroy_process_group()


def main(folder: Path) -> None:
    """Run one rank."""
    place = detect()
    assert place is not None, "to be started by mpirun"
    cases = {
        communicator_case(*case): partial(communicator, *case)
        for case in COMMUNICATORS[place.num_ranks]
    } | {
        backend_case(backend): partial(process_group, backend, folder / f"store of {backend}")
        for backend in BACKENDS[place.num_ranks]
    }
    go_through(folder, cases)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
