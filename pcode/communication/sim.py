"""Nodes simulated in this process: each runs its own code in turn and hands over at exchanges."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from pcode.communication.base import Exchange, ProcessCommunicator
from pcode.utils.errors import CommunicationError

Result = TypeVar("Result")


class Simulation:
    """`num_nodes` nodes in this process, one running at a time.

    Every node has a thread, so that its code is that of a node on a cluster. Exactly one thread
    holds the baton; it passes it on, round robin, when it has to wait for another node. What
    runs when therefore depends on the nodes' code alone, and never on the system's scheduler.
    """

    def __init__(self, num_nodes: int) -> None:
        self.num_nodes = num_nodes
        # (group, sender, receiver) -> messages that have not been received, by number
        self.mailboxes: defaultdict[tuple[range, int, int], dict[int, torch.Tensor]] = defaultdict(
            dict
        )
        # (group, number)
        self.meetings: dict[tuple[range, int], dict[int, torch.Tensor]] = {}
        self._batons = [threading.Semaphore(0) for _ in range(num_nodes)]
        self._waiting: dict[int, Callable[[], bool]] = {}
        self._running = set(range(num_nodes))
        self._all_ended = threading.Event()
        self._fault: tuple[int, BaseException] | None = None
        self._interrupted = False
        self._given_up: tuple[int, str] | None = None
        self._num_recoveries = 0
        self._recovering: set[int] = set()

    def run(self, node: Callable[[ProcessCommunicator], Result]) -> list[Result]:
        """Call `node` once for every node, with that node's communicator; their results.

        Raises:
            BaseException: the first that a node raised. The other nodes get a CommunicationError
                at their next exchange, as they would when a peer dies.
        """
        results: dict[int, Result] = {}

        def live(rank: int) -> None:
            self._batons[rank].acquire()
            try:
                self._raise_if_ended(rank, None, None)
                results[rank] = node(SimCommunicator(self, rank))
            except BaseException as error:  # it ends in the caller's thread, below
                self._fault = self._fault or (rank, error)
            finally:
                self._running.discard(rank)
                self._pass_on(rank)

        threads = [
            threading.Thread(target=live, args=(rank,), name=f"node-{rank}")
            for rank in range(self.num_nodes)
        ]
        for thread in threads:
            thread.start()
        self._batons[0].release()
        try:
            self._all_ended.wait()
        except BaseException:
            self._interrupted = True
            raise
        finally:
            for thread in threads:
                thread.join()
        if self._fault is not None:
            raise self._fault[1]
        return [results[rank] for rank in range(self.num_nodes)]

    def wait_until(
        self, rank: int, ready: Callable[[], bool], peer: int | None, step: int | None
    ) -> None:
        """Let the others run until `ready()`; called by the node that holds the baton.

        Raises:
            CommunicationError: another node failed, or no node can go on.
        """
        self.raise_if_over(rank, peer, step)
        self._hand_over_until(rank, ready)
        self.raise_if_over(rank, peer, step)
        if not ready():
            raise CommunicationError(
                "no node can go on: each waits for a message that none has sent",
                rank=rank,
                peer=peer,
                step=step,
            )

    def give_up(self, rank: int, reason: str) -> None:
        """Let every node raise at its exchanges until all have called `recover`."""
        if self._given_up is None:
            self._given_up = rank, reason

    def recover(self, rank: int) -> None:
        """Return when all nodes that run have called it; what was under way is forgotten.

        Raises:
            CommunicationError: another node failed.
        """
        self._raise_if_ended(rank, None, None)
        self.give_up(rank, "given up to recover")
        number = self._num_recoveries
        self._recovering.add(rank)
        self._hand_over_until(
            rank, lambda: self._num_recoveries > number or self._recovering >= self._running
        )
        self._raise_if_ended(rank, None, None)
        if self._num_recoveries == number:  # the first of them clears up
            self.mailboxes.clear()
            self.meetings.clear()
            self._recovering.clear()
            self._given_up = None
            self._num_recoveries += 1

    def _hand_over_until(self, rank: int, ready: Callable[[], bool]) -> None:
        """Let the others run until `ready()`, or the end of all."""
        if ready():
            return
        self._waiting[rank] = ready
        self._pass_on(rank)
        self._batons[rank].acquire()
        del self._waiting[rank]

    def raise_if_over(self, rank: int, peer: int | None, step: int | None) -> None:
        """Raise a CommunicationError where the nodes cannot go on as they are."""
        self._raise_if_ended(rank, peer, step)
        if self._given_up is not None:
            reporter, reason = self._given_up
            told = reporter != rank
            if told:
                reason = f"rank {reporter} reported: {reason}"
            raise CommunicationError(reason, rank=rank, peer=peer, step=step, told=told)

    def _raise_if_ended(self, rank: int, peer: int | None, step: int | None) -> None:
        """Raise a CommunicationError where the simulation was interrupted or a node failed."""
        if self._interrupted:
            raise CommunicationError("interrupted", rank=rank, step=step)
        if self._fault is not None:
            failed, error = self._fault
            raise CommunicationError(
                f"rank {failed} failed: {error}", rank=rank, peer=peer, step=step, told=True
            )

    def _pass_on(self, rank: int) -> None:
        """Give the baton to the next node that can run, or to any when none can."""
        order = [(rank + offset) % self.num_nodes for offset in range(1, self.num_nodes + 1)]
        alive = [other for other in order if other in self._running]
        if not alive:
            self._all_ended.set()
            return
        ended = self._interrupted or self._fault is not None
        for other in alive:
            over = ended or (self._given_up is not None and other not in self._recovering)
            if over or other not in self._waiting or self._waiting[other]():
                self._batons[other].release()
                return
        # Deadlock: whoever is woken finds that its condition does not hold, and raises.
        self._batons[alive[0]].release()


@dataclass(frozen=True)
class _Awaited:
    """A message to come: from which peer, into which tensor, and where it arrives."""

    peer: int
    tensor: torch.Tensor
    mailbox: dict[int, torch.Tensor]
    number: int


class _SimExchange(Exchange):
    """Messages to come."""

    def __init__(
        self, nodes: Simulation, rank: int, awaited: list[_Awaited], step: int | None
    ) -> None:
        self._nodes, self._rank, self._awaited, self._step = nodes, rank, awaited, step

    def wait(self) -> None:
        for one in self._awaited:
            arrived = partial(one.mailbox.__contains__, one.number)
            self._nodes.wait_until(self._rank, arrived, one.peer, self._step)
            message = one.mailbox.pop(one.number)
            if message.shape != one.tensor.shape or message.dtype != one.tensor.dtype:
                raise CommunicationError(
                    f"{message.nbytes} bytes arrived where {one.tensor.nbytes} were expected",
                    rank=self._rank,
                    peer=one.peer,
                    step=self._step,
                )
            one.tensor.copy_(message)


class SimCommunicator(ProcessCommunicator):
    """One simulated node's view of the others.

    Args:
        process: this one, of all that are simulated.
        group: those of them that it sees, itself among them; None: all.
    """

    def __init__(self, nodes: Simulation, process: int, group: range | None = None) -> None:
        self._nodes, self._process = nodes, process
        self._group = range(nodes.num_nodes) if group is None else group
        self.rank, self.num_nodes = self._group.index(process), len(self._group)
        self.bytes_sent = 0
        self._num_meetings = 0
        self._num_sent: Counter[int] = Counter()
        self._num_expected: Counter[int] = Counter()

    def exchange(
        self,
        outgoing: Mapping[int, torch.Tensor],
        incoming: Mapping[int, torch.Tensor],
        step: int | None = None,
    ) -> Exchange:
        self._nodes.raise_if_over(self._process, None, step)
        # A message to several peers is copied once: the sender may change it after wait().
        copies = {id(tensor): tensor.clone() for tensor in outgoing.values()}
        for peer, tensor in outgoing.items():
            mailbox = self._nodes.mailboxes[self._group, self.rank, peer]
            mailbox[self._num_sent[peer]] = copies[id(tensor)]
            self.bytes_sent += tensor.nbytes
        awaited = [
            _Awaited(
                self._group[peer],
                tensor,
                self._nodes.mailboxes[self._group, peer, self.rank],
                self._num_expected[peer],
            )
            for peer, tensor in incoming.items()
        ]
        self._num_sent.update(outgoing.keys())
        self._num_expected.update(incoming.keys())
        return _SimExchange(self._nodes, self._process, awaited, step)

    def all_reduce(self, tensor: torch.Tensor, step: int | None = None) -> None:
        self._count_all_reduce(tensor)
        total = torch.zeros_like(tensor)
        for other in self._meet(tensor, step):
            total += other
        tensor.copy_(total)

    def all_gather(self, tensor: torch.Tensor, step: int | None = None) -> list[torch.Tensor]:
        return self._meet(tensor, step)

    def _meet(self, tensor: torch.Tensor, step: int | None) -> list[torch.Tensor]:
        """Every node's tensor, once all have come."""
        # Meetings are counted by each node: all call the same ones in the same order.
        number, self._num_meetings = self._num_meetings, self._num_meetings + 1
        meeting = self._nodes.meetings.setdefault((self._group, number), {})
        meeting[self.rank] = tensor.clone()
        self._nodes.wait_until(
            self._process, lambda: len(meeting) == self.num_nodes, peer=None, step=step
        )
        self._nodes.meetings.pop((self._group, number), None)
        return [meeting[rank].to(tensor.device) for rank in range(self.num_nodes)]

    def broadcast(self, tensor: torch.Tensor, step: int | None = None) -> None:
        tensor.copy_(self._meet(tensor if self.rank == 0 else tensor.new_empty(0), step)[0])

    def barrier(self, step: int | None = None) -> None:
        self.all_gather(torch.empty(0), step)

    def group(self, ranks: range, limit_seconds: float) -> SimCommunicator | None:
        return SimCommunicator(self._nodes, self._process, ranks) if self.rank in ranks else None

    def report(self, error: Exception, step: int | None = None) -> None:
        self._nodes.give_up(self._process, str(error) if step is None else f"step {step}: {error}")

    def recover(self) -> tuple[SimCommunicator, list[int]]:
        self._nodes.recover(self._process)
        communicator = SimCommunicator(self._nodes, self._process)
        communicator.bytes_sent = self.bytes_sent
        return communicator, list(range(self.num_nodes))
