"""Nodes simulated in this process: each runs its own code in turn and yields at exchanges."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from pcode.communication.base import ProcessCommunicator, TensorsByPeer, Wait
from pcode.communication.distributed import naming
from pcode.utils.errors import CommunicationError

Result = TypeVar("Result")
Numbered = dict[int, torch.Tensor]


class Simulation:
    """`size` processes in this one, a node each or several to a node; one runs at a time.

    Every one has a thread, so that its code is that of a node on a cluster. Exactly one thread
    holds the baton; it passes it on, round robin, when it has to wait for another one. What
    runs when therefore depends on the nodes' code alone, and never on the system's scheduler.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        # (group, sender, receiver) -> messages that have not been received, by number
        self.mailboxes: defaultdict[tuple[range, int, int], Numbered] = defaultdict(dict)
        # (group, number) -> what a collective operation has gathered so far, by rank
        self.gathered: defaultdict[tuple[range, int], Numbered] = defaultdict(dict)
        self._batons = [threading.Semaphore(0) for _ in range(size)]
        self._waiting: dict[int, Callable[[], bool]] = {}
        self._running = set(range(size))
        self._all_ended = threading.Event()
        self._end: tuple[str, BaseException] | None = None  # why all end: in words, and the error
        self._report: tuple[int, str] | None = None  # who cannot go on as it is, and why
        self._num_recoveries = 0
        self._recovering: set[int] = set()

    def run(self, node: Callable[[ProcessCommunicator], Result]) -> list[Result]:
        """Call `node` once for every process, with its communicator; their results.

        The first error of one is raised; the others get a CommunicationError at their next
        exchange, as they would when a peer dies.
        """
        results: dict[int, Result] = {}

        def live(rank: int) -> None:
            self._batons[rank].acquire()
            try:
                self._raise_if_ended(rank)
                results[rank] = node(SimCommunicator(self, rank))
            except BaseException as error:  # raised in the caller's thread, below
                self._end = self._end or (f"rank {rank} failed: {error}", error)
            finally:
                self._running.discard(rank)
                self._pass_on(rank)

        threads = [
            threading.Thread(target=live, args=(rank,), name=f"node-{rank}")
            for rank in range(self.size)
        ]
        for thread in threads:
            thread.start()
        self._batons[0].release()
        try:
            self._all_ended.wait()
        except BaseException as error:
            self._end = ("interrupted", error)
        finally:
            for thread in threads:
                thread.join()
        if self._end is not None:
            raise self._end[1]
        return [results[rank] for rank in range(self.size)]

    def wait_until(self, rank: int, ready: Callable[[], bool]) -> None:
        """Let the others run until `ready()`; an error if one fails, or none can go on."""
        self.raise_if_over(rank)
        self._yield_until(rank, ready)
        self.raise_if_over(rank)
        if not ready():
            reason = "no node can go on: each waits for a message that none has sent"
            raise CommunicationError(reason, rank=rank)

    def recover(self, rank: int, reason: str) -> None:
        """Return when all that run have called it; what was under way is forgotten.

        Until then every one raises at its exchanges.
        """
        self._raise_if_ended(rank)
        self._report = self._report or (rank, reason or "given up to recover")
        number = self._num_recoveries
        self._recovering.add(rank)
        self._yield_until(
            rank, lambda: self._num_recoveries > number or self._recovering >= self._running
        )
        self._raise_if_ended(rank)
        if self._num_recoveries == number:  # the first of them clears up
            self.mailboxes.clear()
            self.gathered.clear()
            self._recovering.clear()
            self._report = None
            self._num_recoveries += 1

    def _yield_until(self, rank: int, ready: Callable[[], bool]) -> None:
        """Let the others run until `ready()`, or the end of all."""
        if ready():
            return
        self._waiting[rank] = ready
        self._pass_on(rank)
        self._batons[rank].acquire()
        del self._waiting[rank]

    def raise_if_over(self, rank: int) -> None:
        """Raise a CommunicationError where the processes cannot go on as they are."""
        self._raise_if_ended(rank)
        if self._report is not None:
            reporter, reason = self._report
            by_peer = reporter != rank
            if by_peer:
                reason = f"rank {reporter} reported: {reason}"
            raise CommunicationError(reason, rank=rank, reported_by_peer=by_peer)

    def _raise_if_ended(self, rank: int) -> None:
        """Raise a CommunicationError where the simulation was interrupted or a process failed."""
        if self._end is not None:
            raise CommunicationError(self._end[0], rank=rank, reported_by_peer=True)

    def _pass_on(self, rank: int) -> None:
        """Give the baton to the next one that can run, or to any when none can."""
        order = [(rank + offset) % self.size for offset in range(1, self.size + 1)]
        alive = [other for other in order if other in self._running]
        if not alive:
            self._all_ended.set()
            return
        for other in alive:
            raises = self._end is not None or (
                self._report is not None and other not in self._recovering
            )
            if raises or other not in self._waiting or self._waiting[other]():
                self._batons[other].release()
                return
        # Deadlock: whoever is woken finds that its condition does not hold, and raises.
        self._batons[alive[0]].release()


class SimCommunicator(ProcessCommunicator):
    """One simulated process's view of the others: of a group to which it belongs (None: of all).

    Errors name nodes, of `local_size` processes each.
    """

    def __init__(
        self, simulation: Simulation, process: int, group: range | None = None, local_size: int = 1
    ) -> None:
        self._simulation, self._process = simulation, process
        self._naming = partial(naming, process, local_size=local_size)
        self._group = range(simulation.size) if group is None else group
        self.rank, self.size = self._group.index(process), len(self._group)
        self._num_collectives = 0
        self._num_sent: Counter[int] = Counter()
        self._num_expected: Counter[int] = Counter()

    def _exchange(self, outgoing: TensorsByPeer, incoming: TensorsByPeer, step: int | None) -> Wait:
        with self._naming(None, step):
            self._simulation.raise_if_over(self._process)
        # A message to several peers is copied once: the sender may change it after wait().
        messages = {id(tensor): tensor for tensor in outgoing.values()}
        copies = {number: tensor.clone() for number, tensor in messages.items()}
        for peer, tensor in outgoing.items():
            mailbox = self._simulation.mailboxes[self._group, self.rank, peer]
            mailbox[self._num_sent[peer]] = copies[id(tensor)]
        receives = [(peer, self._num_expected[peer], tensor) for peer, tensor in incoming.items()]
        self._num_sent.update(outgoing.keys())
        self._num_expected.update(incoming.keys())

        def wait() -> None:
            for peer, number, tensor in receives:
                self._receive(peer, number, tensor, step)

        return wait

    def _receive(self, peer: int, number: int, tensor: torch.Tensor, step: int | None) -> None:
        mailbox = self._simulation.mailboxes[self._group, peer, self.rank]
        with self._naming(self._group[peer], step):
            self._simulation.wait_until(self._process, lambda: number in mailbox)
            message = mailbox.pop(number)
            if message.shape != tensor.shape or message.dtype != tensor.dtype:
                reason = f"{message.nbytes} bytes arrived where {tensor.nbytes} were expected"
                raise CommunicationError(reason, rank=self._process)
        tensor.copy_(message)

    def _all_reduce(self, tensor: torch.Tensor, step: int | None) -> None:
        total = torch.zeros_like(tensor)
        for other in self.all_gather(tensor, step):
            total += other
        tensor.copy_(total)

    def all_gather(self, tensor: torch.Tensor, step: int | None = None) -> list[torch.Tensor]:
        # Counted by each process: all call the same ones in the same order.
        key = (self._group, self._num_collectives)
        self._num_collectives += 1
        gathered = self._simulation.gathered[key]
        gathered[self.rank] = tensor.clone()
        with self._naming(None, step):
            self._simulation.wait_until(self._process, lambda: len(gathered) == self.size)
        self._simulation.gathered.pop(key, None)
        return [gathered[rank].to(tensor.device) for rank in range(self.size)]

    def broadcast(self, tensor: torch.Tensor, step: int | None = None) -> None:
        gathered = self.all_gather(tensor if self.rank == 0 else tensor.new_empty(0), step)
        tensor.copy_(gathered[0])

    def barrier(self, step: int | None = None) -> None:
        self.all_gather(torch.empty(0), step)

    def group(self, ranks: range, limit_seconds: float, local_size: int) -> SimCommunicator | None:
        if self.rank not in ranks:
            return None
        return SimCommunicator(self._simulation, self._process, ranks, local_size)

    def _recover(self, reason: str) -> tuple[SimCommunicator, list[int]]:
        self._simulation.recover(self._process, reason)
        return SimCommunicator(self._simulation, self._process), list(range(self.size))
