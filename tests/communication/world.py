"""Every communicator that so many ranks go through, one after another.

    mpirun -n N python -m tests.communication.world FOLDER

Two ranks have one neighbour each, which is both sides of the ring, three have two, and of four one
is no neighbour. Nodes of two processes need four.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pcode.communication.connect import disconnect
from pcode.launch.environment import detect
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


def communicator_case(backend: str, local_size: int) -> str:
    """The name of a communicator's case."""
    return f"communicator {backend}, {local_size} to a node"


def expected(num_ranks: int) -> list[tuple[str, str]]:
    """The case and the name of every check."""
    return [
        (communicator_case(*communicator), check)
        for communicator in COMMUNICATORS[num_ranks]
        for check in CHECKS
    ]


@contextmanager
def communicator(backend: str, local_size: int) -> Iterator[Checks]:
    """The contract of communicators."""
    node = join(backend, local_size, LIMIT.total_seconds())
    yield checks_of(node)
    disconnect(node)


def main(folder: Path) -> None:
    """Run one rank."""
    place = detect()
    assert place is not None, "to be started by mpirun"
    cases = {
        communicator_case(*case): partial(communicator, *case)
        for case in COMMUNICATORS[place.num_ranks]
    }
    go_through(folder, cases)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
