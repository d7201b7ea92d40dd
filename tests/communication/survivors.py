"""Communicators that lose nodes and go on; over mpi started by mpirun.

    mpirun --with-ft ulfm -n N python -m tests.communication.survivors SCENARIO FOLDER

Each rank that lives to the end writes FOLDER/RANK.json, RANK being its first one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pcode import mpi_backend
from pcode.communication import Communicator, DistributedCommunicator
from pcode.communication.connect import disconnect
from pcode.utils.errors import CommunicationError

LIMIT_SECONDS = 30.0
LARGE = 1 << 20  # entries of a message that MPI does not send before it is taken


class Tale:
    """What a node has met with, one entry for each recovery."""

    def __init__(self, communicator: Communicator) -> None:
        self.communicator = communicator
        self.entries: list[dict[str, Any]] = []

    def recover(self, error: CommunicationError | None, reason: str = "") -> None:
        """Recover, from the error, which is noted, or for a reason of this node's own."""
        begin, sent = time.perf_counter(), self.communicator.bytes_sent
        self.communicator, survivors = self.communicator.recover(reason)
        entry: dict[str, Any] = {"survivors": survivors, "rank": self.communicator.rank}
        entry["seconds"] = time.perf_counter() - begin
        assert self.communicator.bytes_sent == sent
        assert self.communicator.size == len(survivors)
        if error is not None:
            entry |= {"text": str(error), "peer": error.peer, "step": error.step}
            entry["reported_by_peer"] = error.reported_by_peer
        self.entries.append(entry)
        check_all(self.communicator)


def ring(communicator: Communicator, length: int, step: int) -> Any:
    """Start an exchange with both sides: it, and what is to come."""
    rank, size = communicator.rank, communicator.size
    peers = {(rank - 1) % size, (rank + 1) % size} - {rank}
    incoming = {peer: torch.full((length,), -1.0) for peer in peers}
    outgoing = {peer: torch.full((length,), 10.0 * rank + peer) for peer in peers}
    return communicator.exchange(outgoing, incoming, step), incoming


def check_all(communicator: Communicator) -> None:
    """Every kind of operation does what it should, among those that are left."""
    rank, size = communicator.rank, communicator.size
    for length in (5, LARGE):
        exchange, incoming = ring(communicator, length, 1000)
        exchange.wait()
        for peer, tensor in incoming.items():
            assert torch.equal(tensor, torch.full((length,), 10.0 * peer + rank))
    gathered = communicator.all_gather(torch.tensor([rank, rank]), 1000)
    assert [tensor.tolist() for tensor in gathered] == [[r, r] for r in range(size)]
    total = torch.full((100_000,), float(rank + 1))
    communicator.all_reduce(total, 1000)
    assert torch.equal(total, torch.full((100_000,), size * (size + 1) / 2))
    communicator.barrier(1000)


def lose(tale: Tale, victim: bool, work: Callable[[Communicator, int], None]) -> None:
    """Steps of `work` until a node is lost, at step 3."""
    try:
        for step in range(100):
            if victim and step == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            work(tale.communicator, step)
    except CommunicationError as error:
        tale.recover(error)
        return
    raise AssertionError("no error")


def exchanging(communicator: Communicator, step: int) -> None:
    exchange, _ = ring(communicator, 100, step)
    exchange.wait()


def gathering(communicator: Communicator, step: int) -> None:
    communicator.all_gather(torch.zeros(1000), step)


def holding(communicator: Communicator, step: int) -> None:
    """Exchanges are under way that nobody waits for: with the dead, and between the living."""
    communicator.barrier(step)
    for _ in range(3):
        ring(communicator, LARGE, step)
    exchange, _ = ring(communicator, LARGE, step)
    if step == 2:
        return  # even the last one of the step before the death is not waited for
    exchange.wait()


def waiting(communicator: Communicator, step: int) -> None:
    communicator.barrier(step)


def exchange_ring(tale: Tale) -> None:
    """Node 2 dies in exchanges, then node 1 of the three left."""
    lose(tale, tale.communicator.rank == 2, exchanging)
    lose(tale, tale.communicator.rank == 1, exchanging)


def all_gather(tale: Tale) -> None:
    """Node 1 dies where the others gather; node 0, with the store, at a barrier."""
    lose(tale, tale.communicator.rank == 1, gathering)
    lose(tale, tale.communicator.rank == 0, waiting)


def under_way(tale: Tale) -> None:
    """Node 3 dies while all hold operations that nobody waits for."""
    lose(tale, tale.communicator.rank == 3, holding)


def first_and_last(tale: Tale) -> None:
    """Nodes 0 and 3 die at once."""
    lose(tale, tale.communicator.rank in (0, 3), exchanging)
    while tale.communicator.size > 2:  # the second one was found out later
        lose(tale, False, exchanging)


def while_recovering(tale: Tale) -> None:
    """Node 3 dies; node 0 does when it should recover, and the others wait for it."""
    communicator = tale.communicator
    if communicator.rank == 0:
        try:
            for step in range(100):
                exchanging(communicator, step)
        except CommunicationError:
            time.sleep(0.3)  # the others are in it by now, as a rule; it has to work either way
            os.kill(os.getpid(), signal.SIGKILL)
    lose(tale, communicator.rank == 3, exchanging)
    while tale.communicator.size > 2:
        lose(tale, False, exchanging)


def report(tale: Tale) -> None:
    """Twice a node reports, and nobody dies."""
    for diverged in (1, 0):
        communicator = tale.communicator
        failure: CommunicationError | None = None
        try:
            for step in range(100):
                if communicator.rank == diverged and step == 3:
                    break
                exchanging(communicator, step)
        except CommunicationError as error:
            failure = error
        assert (failure is None) == (communicator.rank == diverged)
        tale.recover(failure, "" if failure else "step 3: not finite")


SCENARIOS: dict[str, Callable[[Tale], None]] = {
    scenario.__name__: scenario
    for scenario in (exchange_ring, all_gather, under_way, first_and_last, while_recovering, report)
}


def main(name: str, folder: Path) -> None:
    """Run one rank of a scenario."""
    torch.set_num_threads(1)
    mpi_backend.init_process_group(timedelta(seconds=LIMIT_SECONDS))
    rank = dist.get_rank()
    tale = Tale(DistributedCommunicator())
    check_all(tale.communicator)
    SCENARIOS[name](tale)
    (folder / f"{rank}.json").write_text(json.dumps(tale.entries), encoding="utf-8")
    disconnect(tale.communicator)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
