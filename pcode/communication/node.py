"""Nodes of several processes: messages travel between nodes, and are handed on inside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from pcode.communication.base import Communicator, Exchange, ProcessCommunicator
from pcode.communication.parts import Parts, naming_nodes
from pcode.utils.errors import CommunicationError

# Processes wait for their node's first as long as that waits for another node, and who waits for
# the other node is to say so.
LONGER, LATER_SECONDS = 1.1, 1.0


class _NodeExchange(Exchange):
    """An exchange of the nodes' first processes, whose messages go on to the others at wait().

    Args:
        under_way: of the first process; None on the others.
    """

    def __init__(
        self,
        under_way: Exchange | None,
        incoming: Iterable[torch.Tensor],
        parts: Parts,
        step: int | None,
    ) -> None:
        self._under_way, self._parts, self._step = under_way, parts, step
        self._incoming = list(incoming)

    def wait(self) -> None:
        if self._under_way is not None:
            with naming_nodes(self._parts.num_parts):
                self._under_way.wait()
        for tensor in self._incoming:
            self._parts.broadcast(tensor, self._step)


class NodeCommunicator(Communicator):
    """One process's view of nodes of several: `rank` is its node, and errors name nodes.

    The first processes of the nodes talk to each other; what has come in, a compressed message as
    a rule, is broadcast inside each node. What a node says is what its first process says: the
    others pass the same, or what is not looked at. All get the same bits, so that processes which
    go on from equal states by equal steps stay equal.

    Args:
        node: this node.
        num_nodes: how many there are.
        leaders: the first processes, by node; None on the others.
        parts: the processes of this node.
        names_peers: whether the communicator of all processes does.
    """

    def __init__(
        self,
        node: int,
        num_nodes: int,
        leaders: ProcessCommunicator | None,
        parts: Parts,
        names_peers: bool,
    ) -> None:
        self.rank, self.num_nodes, self.bytes_sent = node, num_nodes, 0
        self._leaders, self.parts, self.names_peers = leaders, parts, names_peers

    def exchange(
        self,
        outgoing: Mapping[int, torch.Tensor],
        incoming: Mapping[int, torch.Tensor],
        step: int | None = None,
    ) -> Exchange:
        self.bytes_sent += sum(tensor.nbytes for tensor in outgoing.values())
        under_way = None
        if self._leaders is not None:
            with naming_nodes(self.parts.num_parts):
                under_way = self._leaders.exchange(outgoing, incoming, step)
        return _NodeExchange(under_way, incoming.values(), self.parts, step)

    def all_reduce(self, tensor: torch.Tensor, step: int | None = None) -> None:
        self._count_all_reduce(tensor)
        if self._leaders is not None:
            with naming_nodes(self.parts.num_parts):
                self._leaders.all_reduce(tensor, step)
        self.parts.broadcast(tensor, step)

    def all_gather(self, tensor: torch.Tensor, step: int | None = None) -> list[torch.Tensor]:
        gathered = tensor.new_empty(self.num_nodes, *tensor.shape)
        if self._leaders is not None:
            with naming_nodes(self.parts.num_parts):
                torch.stack(self._leaders.all_gather(tensor, step), out=gathered)
        self.parts.broadcast(gathered, step)
        return list(gathered.unbind())

    def average(self, tensor: torch.Tensor) -> None:
        if self._leaders is not None:
            with naming_nodes(self.parts.num_parts):
                self._leaders.average(tensor)
        self.parts.broadcast(tensor)

    def barrier(self, step: int | None = None) -> None:
        self.parts.barrier(step)
        if self._leaders is not None:
            with naming_nodes(self.parts.num_parts):
                self._leaders.barrier(step)
        self.parts.barrier(step)

    def report(self, error: Exception, step: int | None = None) -> None:
        raise CommunicationError(
            "nodes of several processes cannot go on after a failure", rank=self.rank, step=step
        ) from error

    def recover(self) -> tuple[Communicator, list[int]]:
        raise CommunicationError(
            "nodes of several processes cannot go on after a failure", rank=self.rank
        )


def by_nodes(processes: ProcessCommunicator, num_parts: int, limit_seconds: float) -> Communicator:
    """The nodes of which so many processes in a row are one each; all processes call it.

    Args:
        processes: all of them.
        num_parts: of a node; with 1, `processes` itself.
        limit_seconds: the run's time limit.

    Raises:
        CommunicationError: not all have come within it.
    """
    if num_parts == 1:
        return processes
    num_processes, own = processes.num_nodes, None
    longer = LONGER * limit_seconds + LATER_SECONDS
    for first in range(0, num_processes, num_parts):
        own = processes.group(range(first, first + num_parts), longer) or own
    leaders = processes.group(range(0, num_processes, num_parts), limit_seconds)
    return NodeCommunicator(
        processes.rank // num_parts,
        num_processes // num_parts,
        leaders,
        Parts(own),
        processes.names_peers,
    )
