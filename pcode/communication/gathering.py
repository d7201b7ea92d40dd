"""Small things of all ranks of a communicator, and mean tensors; all of them call these."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from pcode.communication.base import Communicator


def gather_floats(
    communicator: Communicator, values: Sequence[float], step: int | None = None
) -> list[list[float]]:
    """Every rank's numbers; `step` is named in errors."""
    gathered = communicator.all_gather(torch.tensor(values, dtype=torch.float64), step)
    return [row.tolist() for row in gathered]


def mean(communicator: Communicator, values: dict[str, float]) -> dict[str, float]:
    """The mean of each value over the ranks."""
    rows = gather_floats(communicator, list(values.values()))
    return {
        name: sum(column) / len(rows)
        for name, column in zip(values, zip(*rows, strict=True), strict=True)
    }


def sums(
    communicator: Communicator, values: Sequence[float], step: int | None = None
) -> list[float]:
    """The sum of each number over the ranks; `step` is named in errors."""
    tensor = torch.tensor(values, dtype=torch.float64)
    communicator.all_reduce(tensor, step)
    return tensor.tolist()


def sums_on_first(
    communicator: Communicator, values: Sequence[float], step: int | None = None
) -> list[float]:
    """As `sums` on the first rank, zeros on the others: summed again, they are the same."""
    totals = sums(communicator, values, step)
    return totals if communicator.is_first else [0.0] * len(totals)


def gather_digests(
    communicator: Communicator,
    digest: bytes,
    step: int | None = None,
    device: torch.device | str = "cpu",
) -> list[str]:
    """Every rank's digest, in hexadecimal digits.

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
def average(communicator: Communicator, tensors: Iterable[torch.Tensor]) -> None:
    """Replace tensors of one dtype and device by their mean over the ranks, on each of them.

    In the order of ranks, so that every backend gives the same bits.
    """
    with _flat(tensors) as flat:
        communicator.average(flat)


@torch.no_grad()
def average_among(
    communicator: Communicator, tensors: Iterable[torch.Tensor], among: Sequence[int]
) -> None:
    """As `average`, the mean over these ranks alone; all of them call it."""
    with _flat(tensors) as flat:
        if communicator.rank not in among:
            flat.zero_()
        communicator.average(flat)
        flat.mul_(communicator.size / len(among))
