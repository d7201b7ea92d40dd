"""What every communicator is: who am I, and exchanges with the others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from pcode.communication.checksums import EdgeChecksums
from pcode.utils.errors import CommunicationError

# Pieces of `average`: n of them are in memory at a time.
AVERAGED_ENTRIES = 1 << 20

# A tensor for each peer, by its rank.
TensorsByPeer = Mapping[int, torch.Tensor]
# Returns when an exchange is complete.
Wait = Callable[[], None]


@dataclass(frozen=True)
class Exchange:
    """An exchange under way. Its tensors must not be touched before wait() has returned.

    That returns when every incoming tensor is filled and every outgoing one may be reused (on a
    GPU: for what is launched on the current stream from then on), or raises a CommunicationError
    with rank, peer and step, at the latest after the time limit.
    """

    wait: Wait


class Communicator(ABC):
    """One node's view of the others. All nodes call the same methods in the same order.

    Every `step` is that of the training, to be named in errors.

    Attributes:
        rank, size: this node, from 0, and how many there are.
        bytes_sent: bytes this node has sent in `exchange` (exact: what was handed over) and
            `all_reduce` (2 (n - 1) / n times the tensor, which the best algorithms send). What
            evaluation gathers is not counted.
        local_ranks: the processes that this node consists of.
        names_peers: whether an exchange whose messages do not come ends, and its error names the
            peer. NCCL's goes on waiting, on the GPU: see `check_peers`.
        checksums: of the messages of `exchange`, for `compare_messages`; None: nobody asks.
    """

    rank: int
    size: int
    checksums: EdgeChecksums | None = None
    bytes_sent: int = 0
    local_ranks: ProcessCommunicator
    names_peers: bool = True

    @property
    def process(self) -> int:
        """This process among those of all nodes, from 0, node after node."""
        return self.rank * self.local_ranks.size + self.local_ranks.rank

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all."""
        return self.process == 0

    def exchange(
        self, outgoing: TensorsByPeer, incoming: TensorsByPeer, step: int | None = None
    ) -> Exchange:
        """Start sending outgoing[peer] to each peer and receiving into incoming[peer]; return.

        Tensors are contiguous; the size and dtype of a message are known to both ends. Messages
        between two nodes arrive in the order of the calls.
        """
        wait = self._exchange(outgoing, incoming, step)
        self.bytes_sent += sum(tensor.nbytes for tensor in outgoing.values())
        checksums = self.checksums
        if checksums is None:
            return Exchange(wait)
        checksums.add_sent(outgoing)

        def wait_and_count() -> None:
            wait()
            checksums.add_received(incoming)

        return Exchange(wait_and_count)

    def compare_messages(self, step: int) -> None:
        """Compare checksums with every peer, of all messages so far, where they are taken.

        All nodes call it, when no exchange is under way; it returns once all have found no damage.

        Raises:
            DamagedMessageError: of what came from a peer and what that has sent.
        """
        if self.checksums is not None:
            own, reported = self.checksums.messages()
            self._exchange(own, reported, step)()
            self.checksums.compare(reported, self.rank, step)
            self.barrier(step)

    @abstractmethod
    def _exchange(self, outgoing: TensorsByPeer, incoming: TensorsByPeer, step: int | None) -> Wait:
        """Start the exchange; return what waits for its end."""

    def all_reduce(self, tensor: torch.Tensor, step: int | None = None) -> None:
        """Replace `tensor` by its sum over all nodes, in place; the same bits on all."""
        self.bytes_sent += 2 * (self.size - 1) * tensor.nbytes // self.size
        self._all_reduce(tensor, step)

    @abstractmethod
    def _all_reduce(self, tensor: torch.Tensor, step: int | None) -> None: ...

    @abstractmethod
    def all_gather(self, tensor: torch.Tensor, step: int | None = None) -> list[torch.Tensor]:
        """Return every node's `tensor`, in the order of ranks; same shape and dtype on all."""

    @abstractmethod
    def barrier(self, step: int | None = None) -> None:
        """Return when all nodes have called it."""

    def fail_point(  # noqa: B027  # there is none but in tests
        self, phase: str, step: int | None, corrupt: Callable[[], object] | None = None
    ) -> None:
        """Let a failure on purpose happen here (injection.py); `corrupt` spoils what is in hand."""

    def check_peers(self, step: int | None = None) -> None:
        """Find the node for which the exchanges wait, where they do not name it.

        For a node whose GPU does not come to the end of a step. Nodes that live come to the same:
        they answer, by way of the host. Of one that does not the error names rank, peer and step.
        """
        if not self.names_peers:
            others = [rank for rank in range(self.size) if rank != self.rank]
            answers = {peer: torch.empty(1, dtype=torch.uint8) for peer in others}
            question = torch.zeros(1, dtype=torch.uint8)
            self._exchange(dict.fromkeys(others, question), answers, step)()

    def recover(self, reason: str = "") -> tuple[Communicator, list[int]]:
        """Go on with the nodes that live; called by all of them after a CommunicationError of their
        own or one that a peer reported.

        May be called again, on what it returned, as often as nodes fail. Do not use this
        communicator afterwards, nor any tensor of an exchange whose wait() has not returned.

        Args:
            reason: of a node that comes without such an error, as it cannot go on as it is: all
                others raise one that says so.

        Returns:
            A communicator of those that live, ranks 0 to m - 1 in the order of the old ones, which
            goes on counting bytes_sent; and their ranks in this one, ascending.

        Raises:
            CommunicationError: a node lives but does not come within the time limit, or there is
                no recovery.
        """
        communicator, survivors = self._recover(reason)
        communicator.bytes_sent = self.bytes_sent
        if self.checksums is not None:
            communicator.checksums = EdgeChecksums()
        return communicator, survivors

    def _recover(self, reason: str) -> tuple[Communicator, list[int]]:
        kind = type(self).__name__
        raise CommunicationError(f"a {kind} cannot go on after a failure", rank=self.rank)

    def all_reduce_mean(self, tensor: torch.Tensor, step: int | None = None) -> None:
        """Replace `tensor` by its mean over all nodes, in place."""
        self.all_reduce(tensor, step)
        tensor.div_(self.size)

    def average(self, tensor: torch.Tensor) -> None:
        """Replace a flat `tensor` by its mean over all nodes, in place, piece by piece.

        Slower than all_reduce_mean: the sum is taken in the order of ranks, so that every
        backend gives the same bits. For what is averaged once, not at every step.
        """
        for piece in torch.split(tensor, AVERAGED_ENTRIES):
            gathered = self.all_gather(piece)
            total = gathered[0].clone()
            for other in gathered[1:]:
                total += other
            piece.copy_(total.div_(self.size))


class ProcessCommunicator(Communicator):
    """One process's view of others: `rank` and `size` count processes."""

    @abstractmethod
    def broadcast(self, tensor: torch.Tensor, step: int | None = None) -> None:
        """Replace `tensor` by that of rank 0."""

    @abstractmethod
    def group(
        self, ranks: range, limit_seconds: float, local_size: int
    ) -> ProcessCommunicator | None:
        """Return a communicator of these ranks alone, for one of them; all processes call it.

        In their order they are 0, 1, ... there. The time limit is that of its operations; errors
        name nodes, of `local_size` processes each.
        """


class NoCommunicator(ProcessCommunicator):
    """Communicates nothing: for a process alone, or for one that leaves it to another process of
    its node and gets from that what comes in."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def _exchange(self, outgoing: TensorsByPeer, incoming: TensorsByPeer, step: int | None) -> Wait:
        return lambda: None

    def _all_reduce(self, tensor: torch.Tensor, step: int | None) -> None:
        pass

    def all_gather(self, tensor: torch.Tensor, step: int | None = None) -> list[torch.Tensor]:
        return [tensor] * self.size

    def broadcast(self, tensor: torch.Tensor, step: int | None = None) -> None:
        pass

    def barrier(self, step: int | None = None) -> None:
        pass

    def group(self, ranks: range, limit_seconds: float, local_size: int) -> NoCommunicator:
        return NoCommunicator()


# As long as nothing else is said, a node is one process.
Communicator.local_ranks = NoCommunicator()
