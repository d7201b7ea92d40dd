"""Nodes of several processes: messages travel between nodes, and are broadcast inside them."""

import torch

from pcode.communication.base import (
    Communicator,
    NoCommunicator,
    ProcessCommunicator,
    TensorsByPeer,
    Wait,
)

# Processes wait for their node's first as long as that waits for another node, and who waits for
# the other node is to say so.
LONGER, LATER_SECONDS = 1.1, 1.0


class NodeCommunicator(Communicator):
    """One process's view of nodes of several: `rank` is its node, and errors name nodes.

    The first processes of the nodes talk to each other; what has come in, a compressed message as
    a rule, is broadcast inside each node. What a node says is what its first process says: the
    others pass the same, or what is not looked at. All get the same bits, so that processes which
    go on from equal states by equal steps stay equal. On those others `leaders`, the first
    processes by node, communicates nothing.
    """

    def __init__(
        self, leaders: ProcessCommunicator, local_ranks: ProcessCommunicator, names_peers: bool
    ) -> None:
        self.rank, self.size = leaders.rank, leaders.size
        self._leaders, self.local_ranks, self.names_peers = leaders, local_ranks, names_peers

    def _exchange(self, outgoing: TensorsByPeer, incoming: TensorsByPeer, step: int | None) -> Wait:
        between_leaders = self._leaders.exchange(outgoing, incoming, step)
        received = list(incoming.values())

        def wait() -> None:
            between_leaders.wait()
            for tensor in received:
                self.local_ranks.broadcast(tensor, step)

        return wait

    def _all_reduce(self, tensor: torch.Tensor, step: int | None) -> None:
        self._leaders.all_reduce(tensor, step)
        self.local_ranks.broadcast(tensor, step)

    def all_gather(self, tensor: torch.Tensor, step: int | None = None) -> list[torch.Tensor]:
        gathered = torch.stack(self._leaders.all_gather(tensor, step))
        self.local_ranks.broadcast(gathered, step)
        return list(gathered.unbind())

    def average(self, tensor: torch.Tensor) -> None:
        self._leaders.average(tensor)
        self.local_ranks.broadcast(tensor)

    def barrier(self, step: int | None = None) -> None:
        self.local_ranks.barrier(step)
        self._leaders.barrier(step)
        self.local_ranks.barrier(step)


def by_nodes(processes: ProcessCommunicator, local_size: int, limit_seconds: float) -> Communicator:
    """Return the nodes of which so many processes in a row are one each; all processes call it."""
    if local_size == 1:
        return processes
    longer = LONGER * limit_seconds + LATER_SECONDS
    firsts = range(0, processes.size, local_size)
    nodes = (range(first, first + local_size) for first in firsts)
    groups = [processes.group(node, longer, local_size) for node in nodes]
    (local_ranks,) = filter(None, groups)  # it is a process of one of them
    leaders = processes.group(firsts, limit_seconds, local_size) or NoCommunicator(
        processes.rank // local_size, processes.size // local_size
    )
    return NodeCommunicator(leaders, local_ranks, processes.names_peers)
