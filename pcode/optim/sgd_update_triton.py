"""GPU kernel of the local step of SGD and the mixing of x."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from pcode.compression.kernels.gpu.blocks import segment_of
from pcode.compression.kernels.gpu.launch import launch_on_segments, segments_of
from pcode.utils.devices import to_device
from pcode.utils.layout import Layout

# Bytes of the widest access, and of a float32.
WIDEST_BYTES, LEAST_BYTES = 16, 4


@triton.jit
def _update(
    x: tl.tensor,
    gradients: tl.tensor,
    buf: tl.tensor,
    z: tl.tensor,
    coefficients: tl.tensor,
    segments: tl.tensor,
    LR: tl.constexpr,
    WEIGHT_DECAY: tl.constexpr,
    MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr,
    GAMMA: tl.constexpr,
    GRADIENT_BYTES: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    ENTRIES: tl.constexpr,
) -> None:
    """Do the operations of the CPU's kernel, in its order.

    Args:
        gradients: the address of each tensor's gradient.
        coefficients: a row of five for each tensor, by the columns that are named.
        GRADIENT_BYTES: what all addresses are multiples of.
    """
    tensor, first, start, size = segment_of(segments, ALIGNMENT)
    entries = tl.arange(0, ENTRIES)
    inside = entries < size
    row = coefficients + 5 * tensor
    momentum = tl.load(row + MOMENTUM)
    gradient = tl.load(gradients + tensor).to(tl.pointer_type(tl.float32)) + start
    # A segment begins at a multiple of 16 bytes in its tensor. Said of the sum, as it would be lost
    # when `start`, of which that is not known, were added.
    gradient = tl.multiple_of(gradient, GRADIENT_BYTES)
    value = tl.load(x + first + entries, mask=inside)
    velocity = tl.load(buf + first + entries, mask=inside)
    disagreement = tl.load(z + first + entries, mask=inside)
    direction = tl.load(gradient + entries, mask=inside) + tl.load(row + WEIGHT_DECAY) * value
    velocity = momentum * velocity + direction
    nesterov = direction + momentum * velocity
    step = tl.where(tl.load(row + NESTEROV) != 0, nesterov, velocity)
    value = value - tl.load(row + LR) * step + tl.load(row + GAMMA) * disagreement
    tl.store(buf + first + entries, velocity, mask=inside)
    tl.store(x + first + entries, value, mask=inside)


@lru_cache(maxsize=16)
def _addresses(addresses: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Put them on the device; torch gives gradients the same memory step after step."""
    return to_device(torch.tensor(addresses, dtype=torch.int64), device)


@lru_cache(maxsize=16)
def _coefficients(rows: bytes, device: torch.device) -> torch.Tensor:
    """Put them on the device; the learning rate may stay the same for long."""
    return to_device(torch.from_numpy(np.frombuffer(rows, dtype=np.float32).copy()), device)


def update(
    layout: Layout,
    x: torch.Tensor,
    gradients: Sequence[torch.Tensor],
    buf: torch.Tensor,
    z: torch.Tensor,
    coefficients: NDArray[np.float32],
    **columns: int,
) -> None:
    """Do what `SGDUpdate` does, on the GPU, in one launch.

    Args:
        columns: of the coefficients, by the names of the kernel's.

    Raises:
        ValueError: a gradient is not a contiguous float32 tensor there.
    """
    for gradient in gradients:
        if (
            gradient.device != x.device
            or gradient.dtype != torch.float32
            or not gradient.is_contiguous()
        ):
            raise ValueError(
                f"expected contiguous float32 gradients on {x.device}, got {gradient.dtype} with "
                f"strides {gradient.stride()} on {gradient.device}"
            )
    addresses = tuple(gradient.data_ptr() for gradient in gradients)
    wide = all(address % WIDEST_BYTES == 0 for address in addresses)
    launch_on_segments(
        _update,
        segments_of(layout.sizes, x.device),
        x,
        _addresses(addresses, x.device),
        buf,
        z,
        _coefficients(coefficients.tobytes(), x.device),
        GRADIENT_BYTES=WIDEST_BYTES if wide else LEAST_BYTES,
        **columns,
    )
