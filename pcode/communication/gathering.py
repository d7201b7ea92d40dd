"""Small things of all ranks of a communicator, and mean tensors; all of them call these."""

import hashlib
from collections.abc import Iterable, Sequence

import torch

from pcode.communication.base import Communicator

Device = torch.device | str


def gather_floats(
    communicator: Communicator, values: Sequence[float], step: int | None = None
) -> list[list[float]]:
    """Return every rank's numbers; `step` is named in errors."""
    gathered = communicator.all_gather(torch.tensor(values, dtype=torch.float64), step)
    return [row.tolist() for row in gathered]


def mean(communicator: Communicator, values: dict[str, float]) -> dict[str, float]:
    """Return the mean of each value over the ranks."""
    rows = gather_floats(communicator, list(values.values()))
    return {
        name: sum(column) / len(rows)
        for name, column in zip(values, zip(*rows, strict=True), strict=True)
    }


def sums(
    communicator: Communicator, values: Sequence[float], step: int | None = None
) -> list[float]:
    """Return the sum of each number over the ranks; `step` is named in errors."""
    tensor = torch.tensor(values, dtype=torch.float64)
    communicator.all_reduce(tensor, step)
    return tensor.tolist()


def sums_on_first(
    communicator: Communicator, values: Sequence[float], step: int | None = None
) -> list[float]:
    """Return `sums` on the first rank, zeros on the others: summed again, they are the same."""
    totals = sums(communicator, values, step)
    return totals if communicator.is_first else [0.0] * len(totals)


def gather_digests(
    communicator: Communicator, digest: bytes, step: int | None = None, device: Device = "cpu"
) -> list[str]:
    """Return every rank's digest, in hexadecimals; the communicator serves that `device`."""
    own = torch.frombuffer(bytearray(digest), dtype=torch.uint8).to(device)
    return [bytes(row.tolist()).hex() for row in communicator.all_gather(own, step)]


def is_same_everywhere(
    communicator: Communicator, tensor: torch.Tensor, step: int | None = None
) -> bool:
    """Return whether the tensor has the same bits on all ranks; `step` is named in errors."""
    digest = hashlib.sha256(tensor.cpu().numpy().data).digest()
    return len(set(gather_digests(communicator, digest, step, tensor.device))) == 1


@torch.no_grad()
def average(
    communicator: Communicator, tensors: Iterable[torch.Tensor], among: Sequence[int] | None = None
) -> None:
    """Replace tensors of one dtype and device by their mean over the ranks, on each of them.

    In the order of ranks, so that every backend gives the same bits. All call it, also where the
    mean is `among` some of the ranks.
    """
    tensors = list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    if among is not None and communicator.rank not in among:
        flat.zero_()
    communicator.average(flat)
    if among is not None:
        flat.mul_(communicator.size / len(among))
    pieces = flat.split([tensor.numel() for tensor in tensors])
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.copy_(piece.view_as(tensor))
