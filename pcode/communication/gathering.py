"""What small things all nodes know of each other, and their mean tensors; all nodes call these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from pcode.communication.base import Communicator


class Members(Protocol):
    """The nodes, as a Communicator sees them, or the Parts of one."""

    def all_gather(self, tensor: torch.Tensor, step: int | None = None) -> list[torch.Tensor]:
        """Every member's `tensor`."""

    def average(self, tensor: torch.Tensor) -> None:
        """Replace a flat `tensor` by its mean."""


def gather_floats(
    communicator: Members, values: Sequence[float], step: int | None = None
) -> list[list[float]]:
    """Every node's numbers, by rank; `step` is named in errors."""
    gathered = communicator.all_gather(torch.tensor(values, dtype=torch.float64), step)
    return [row.tolist() for row in gathered]


def mean(communicator: Members, values: dict[str, float]) -> dict[str, float]:
    """The mean of each value over the nodes."""
    rows = gather_floats(communicator, list(values.values()))
    return {
        name: sum(column) / len(rows)
        for name, column in zip(values, zip(*rows, strict=True), strict=True)
    }


def gather_digests(
    communicator: Members,
    digest: bytes,
    step: int | None = None,
    device: torch.device | str = "cpu",
) -> list[str]:
    """Every node's digest, in hexadecimal digits, by rank.

    Args:
        step: named in errors.
        device: one on which the communicator takes tensors.
    """
    own = torch.frombuffer(bytearray(digest), dtype=torch.uint8).to(device)
    return [bytes(row.tolist()).hex() for row in communicator.all_gather(own, step)]


@contextmanager
def _flat(tensors: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The values of tensors of one dtype and device in one; what becomes of it they take over."""
    tensors = list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    yield flat
    pieces = flat.split([tensor.numel() for tensor in tensors])
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.copy_(piece.view_as(tensor))


@torch.no_grad()
def average(communicator: Members, tensors: Iterable[torch.Tensor]) -> None:
    """Replace tensors of one dtype and device by their mean over nodes, on every node.

    In the order of ranks, so that every backend gives the same bits.
    """
    with _flat(tensors) as flat:
        communicator.average(flat)


@torch.no_grad()
def average_among(
    communicator: Communicator, tensors: Iterable[torch.Tensor], among: Sequence[int]
) -> None:
    """As `average`, the mean over the nodes of these ranks; all nodes call it."""
    with _flat(tensors) as flat:
        if communicator.rank not in among:
            flat.zero_()
        communicator.average(flat)
        flat.mul_(communicator.num_nodes / len(among))
