"""The processes that train as one node, of which one speaks for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from pcode.utils.errors import CommunicationError

if TYPE_CHECKING:
    from pcode.communication.base import ProcessCommunicator


@contextmanager
def naming_nodes(num_parts: int) -> Iterator[None]:
    """Let errors of communicators of processes name nodes, of which each has so many of them."""
    try:
        yield
    except CommunicationError as error:
        raise error.by_node(num_parts) from error


class Parts:
    """The processes of a node, as one of them sees them; all of them call the same methods.

    Tensors are those that the communicator takes. `step` is named in errors.

    Args:
        inside: a communicator of these processes alone; None: the node is one process, and
            nothing is to be done.

    Attributes:
        part: this process, from 0.
        num_parts: how many there are.
    """

    def __init__(self, inside: ProcessCommunicator | None = None) -> None:
        self._inside = inside
        self.part = 0 if inside is None else inside.rank
        self.num_parts = 1 if inside is None else inside.num_nodes

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for the node."""
        return self.part == 0

    def all_reduce(self, tensor: torch.Tensor, step: int | None = None) -> None:
        """Replace `tensor` by its sum over the parts, the same bits on all of them."""
        if self._inside is not None:
            with naming_nodes(self.num_parts):
                self._inside.all_reduce(tensor, step)

    def broadcast(self, tensor: torch.Tensor, step: int | None = None) -> None:
        """Replace `tensor` by the first part's."""
        if self._inside is not None:
            with naming_nodes(self.num_parts):
                self._inside.broadcast(tensor, step)

    def all_gather(self, tensor: torch.Tensor, step: int | None = None) -> list[torch.Tensor]:
        """Every part's `tensor`, in their order; same shape and dtype on all."""
        if self._inside is None:
            return [tensor]
        with naming_nodes(self.num_parts):
            return self._inside.all_gather(tensor, step)

    def average(self, tensor: torch.Tensor) -> None:
        """Replace a flat `tensor` by its mean over the parts, added in their order."""
        if self._inside is not None:
            with naming_nodes(self.num_parts):
                self._inside.average(tensor)

    def barrier(self, step: int | None = None) -> None:
        """Return when all parts have called it."""
        if self._inside is not None:
            with naming_nodes(self.num_parts):
                self._inside.barrier(step)

    def totals(self, values: Sequence[float], step: int | None = None) -> list[float]:
        """The sums of these numbers over the parts, on all of them."""
        if self._inside is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        self.all_reduce(tensor, step)
        return tensor.tolist()

    def collect(self, values: Sequence[float], step: int | None = None) -> list[float]:
        """The sums of these numbers over the parts, on the first; zeros, which add nothing, on
        the others. Collected again, they are the same."""
        totals = self.totals(values, step)
        return totals if self.is_first else [0.0] * len(totals)


ONE_PROCESS = Parts()
