"""Getting tensors from host memory to where a model is."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on that device; itself where it is there.

    Out of page-locked memory, so that the copy is queued and nobody waits for it. Its memory is
    used again only when the copy has run: torch sees to it.
    """
    if tensor.device == device:
        return tensor
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@lru_cache(maxsize=64)
def kept_on(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The same for one of a few that never change: copied once."""
    return to_device(tensor, device)


def moved_together(tensors: Sequence[torch.Tensor], device: torch.device) -> Sequence[torch.Tensor]:
    """One-dimensional tensors on that device, by one copy."""
    if device.type == "cpu" or not tensors:
        return tensors
    moved = to_device(torch.cat(list(tensors)), device)
    return list(torch.split(moved, [len(tensor) for tensor in tensors]))


def memory_bytes(device: torch.device) -> float:
    """Of a GPU, all of it; of the host, no limit: what lies there lies there already."""
    if device.type != "cuda":
        return math.inf
    return torch.cuda.get_device_properties(device).total_memory
