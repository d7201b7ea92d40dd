"""What small things all nodes know of each other, and their mean tensors; all nodes call these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from pcode.communication.base import Communicator


def gather_floats(
    communicator: Communicator, values: Sequence[float], step: int | None = None
) -> list[list[float]]:
    """Every node's numbers, by rank; `step` is named in errors."""
    gathered = communicator.all_gather(torch.tensor(values, dtype=torch.float64), step)
    return [row.tolist() for row in gathered]


def mean(communicator: Communicator, values: dict[str, float]) -> dict[str, float]:
    """The mean of each value over the nodes."""
    rows = gather_floats(communicator, list(values.values()))
    return {
        name: sum(column) / len(rows)
        for name, column in zip(values, zip(*rows, strict=True), strict=True)
    }


def gather_digests(
    communicator: Communicator,
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


@torch.no_grad()
def average(
    communicator: Communicator,
    tensors: Iterable[torch.Tensor],
    among: Sequence[int] | None = None,
) -> None:
    """Replace tensors of one dtype and device by their mean over nodes, on every node.

    In the order of ranks, so that every backend gives the same bits.

    Args:
        among: the ranks of the nodes whose mean it is; all, if None.
    """
    tensors = list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    num_nodes = communicator.num_nodes
    if among is not None and communicator.rank not in among:
        flat.zero_()
    communicator.average(flat)
    if among is not None:
        flat.mul_(num_nodes / len(among))
    pieces = flat.split([tensor.numel() for tensor in tensors])
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.copy_(piece.view_as(tensor))
