"""Where tensors lie: what the CPU kernels are given, checked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from pcode.compression.base import Message
from pcode.compression.kernels.lanes import LANES
from pcode.utils.errors import NotFiniteError, UserError
from pcode.utils.layout import Layout

_CPU = torch.device("cpu")
_ZEROS = np.zeros(LANES, dtype=np.float32)
_ZEROS_ADDRESS = _ZEROS.ctypes.data


@lru_cache(maxsize=64)
def _array(numbers: tuple[int, ...]) -> NDArray[np.int64]:
    return np.array(numbers, dtype=np.int64)


def sizes_of(layout: Layout) -> NDArray[np.int64]:
    """The entries of each tensor, in an array made once per layout."""
    return _array(layout.sizes)


def offsets_of(layout: Layout) -> NDArray[np.int64]:
    """Where each tensor begins, in entries, in an array made once per layout."""
    return _array(layout.offsets)


def check_tensor(tensor: torch.Tensor, dtype: torch.dtype, size: int, device: torch.device) -> None:
    """Raise ValueError unless it is a contiguous one of so many entries on that device."""
    if (
        tensor.device != device
        or tensor.dtype != dtype
        or tensor.shape != (size,)
        or not tensor.is_contiguous()
    ):
        raise ValueError(
            f"expected a contiguous {dtype} tensor of shape ({size},) on {device}, got "
            f"{tensor.dtype} of shape {tuple(tensor.shape)} and strides {tensor.stride()} on "
            f"{tensor.device}"
        )


def _address(tensor: torch.Tensor, dtype: torch.dtype, size: int) -> int:
    if tensor.device.type not in {"cpu", "cuda"}:
        raise UserError(f"compression has no kernels for device {tensor.device}; use cpu or cuda")
    check_tensor(tensor, dtype, size, _CPU)
    return tensor.data_ptr()


def address_of(layout: Layout, vector: torch.Tensor) -> int:
    """The address of a vector of the layout.

    Raises:
        UserError: it lies on a device that has no kernels.
        ValueError: it is no flat contiguous float32 tensor of layout.num_entries.
    """
    return _address(vector, torch.float32, layout.num_entries)


def reference_of(layout: Layout, reference: torch.Tensor | None) -> tuple[int, int]:
    """The address of a reference and the bytes from one entry to the next; raises like address_of.

    No reference is a single group of zeros, read again and again: v - 0 has the bits of v.
    """
    if reference is None:
        return _ZEROS_ADDRESS, 0
    return address_of(layout, reference), 4


def payload_address(message: Message, num_bytes: int) -> int:
    """The address of a payload of so many bytes; raises like `address_of`."""
    return _address(message.payload, torch.uint8, num_bytes)


def accumulate_arguments(
    layout: Layout,
    messages: Sequence[Message],
    targets: Sequence[torch.Tensor],
    weights: Sequence[Sequence[float]],
    num_bytes: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """What every accumulating kernel starts with: addresses of targets and payloads, weights.

    Raises like `address_of`, and ValueError where there is not one weight for each pair.

    Args:
        num_bytes: of a payload.
    """
    return (
        np.array([address_of(layout, target) for target in targets], dtype=np.int64),
        np.array([payload_address(each, num_bytes) for each in messages], dtype=np.int64),
        weight_matrix(weights, len(targets), len(messages)),
    )


def weight_matrix(
    weights: Sequence[Sequence[float]], num_targets: int, num_messages: int
) -> NDArray[np.float32]:
    """The weights rounded to float32, num_targets x num_messages.

    Raises:
        ValueError: there is not one weight for each target and message.
    """
    matrix = np.array(weights, dtype=np.float32)
    if matrix.shape != (num_targets, num_messages):
        raise ValueError(
            f"expected {num_targets} x {num_messages} weights (targets x messages), "
            f"got shape {matrix.shape}"
        )
    return matrix


def check_finite(layout: Layout, segments: NDArray[np.int64], sums: NDArray[np.float64]) -> None:
    """Raise NotFiniteError for the tensor of the first segment whose sum is NaN or infinite.

    Args:
        segments: num_segments x 4; the first column holds the tensor's number.
        sums: one number for each segment.
    """
    finite = np.isfinite(sums)
    if not finite.all():
        raise NotFiniteError(layout.names[segments[finite.argmin(), 0]])
