"""What every communicator is: who am I, and exchanges with the others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch


class Exchange(ABC):
    """An exchange under way. Its tensors must not be touched before wait() has returned."""

    @abstractmethod
    def wait(self) -> None:
        """Return when every incoming tensor is filled and every outgoing one may be reused.

        Raises:
            CommunicationError: naming rank, peer and step, at the latest after the time limit.
        """


class Communicator(ABC):
    """One node's view of the others. All nodes call the same methods in the same order.

    Attributes:
        rank: this node, from 0.
        num_nodes: how many there are.
        bytes_sent: bytes this node has handed to `exchange` for its peers since the start.
    """

    rank: int
    num_nodes: int
    bytes_sent: int

    @abstractmethod
    def exchange(
        self,
        outgoing: Mapping[int, torch.Tensor],
        incoming: Mapping[int, torch.Tensor],
        step: int | None = None,
    ) -> Exchange:
        """Start sending outgoing[peer] to each peer and receiving into incoming[peer]; return.

        Tensors are contiguous; the size and dtype of a message are known to both ends. Messages
        between two nodes arrive in the order of the calls. `step` is named in errors.
        """

    @abstractmethod
    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Replace `tensor` by its sum over all nodes, in place."""

    @abstractmethod
    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Every node's `tensor`, in the order of ranks; same shape and dtype on all."""

    @abstractmethod
    def barrier(self) -> None:
        """Return when all nodes have called it."""

    def all_reduce_mean(self, tensor: torch.Tensor) -> None:
        """Replace `tensor` by its mean over all nodes, in place."""
        self.all_reduce(tensor)
        tensor.div_(self.num_nodes)
