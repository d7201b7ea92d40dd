"""GPU kernels of the sign compressor, which describes the message."""

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl

from pcode.compression.base import Difference, Message, WeightedSum
from pcode.compression.kernels.gpu.accumulate import add_entries
from pcode.compression.kernels.gpu.blocks import (
    difference_of_segment,
    floats_at,
    signed,
    store_signs,
    store_sum,
    sum_of_tensor,
)
from pcode.compression.kernels.gpu.launch import (
    check_alignment,
    launch,
    launch_on_segments,
    segments_of,
)
from pcode.compression.sign.places import places_of
from pcode.utils.layout import Layout


@triton.jit
def _encode(
    value: tl.tensor,
    reference: tl.tensor,
    payload: tl.tensor,
    places: tl.tensor,
    sums: tl.tensor,
    segments: tl.tensor,
    ALIGNMENT: tl.constexpr,
    ENTRIES: tl.constexpr,
) -> None:
    tensor, _, start, size, result = difference_of_segment(
        value, reference, segments, ALIGNMENT, ENTRIES
    )
    store_signs(payload + tl.load(places + tensor) + start // 8, result, size, ENTRIES)
    store_sum(sums, segments, tl.abs(result).to(tl.float64))


@triton.jit
def _write_means(payload: tl.tensor, sizes: tl.tensor, firsts: tl.tensor, sums: tl.tensor) -> None:
    tensor = tl.program_id(0)
    size = tl.maximum(tl.load(sizes + tensor), 1).to(tl.float64)
    mean = sum_of_tensor(firsts, sums) / size
    tl.store(floats_at(payload) + tensor, mean.to(tl.float32))


@triton.jit
def _decode(
    payload: tl.tensor,
    places: tl.tensor,
    tensor: tl.tensor,
    first: tl.tensor,
    start: tl.tensor,
    size: tl.tensor,
    BITS: tl.constexpr,
    ENTRIES: tl.constexpr,
) -> Any:
    mean = tl.load(floats_at(payload) + tensor)
    return signed(mean, payload + tl.load(places + tensor) + start // 8, size, ENTRIES)


@lru_cache(maxsize=64)
def _tables(sizes: tuple[int, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where the bits of each tensor begin in a message, and the tensors' sizes."""
    return (
        torch.from_numpy(places_of(sizes)).to(device),
        torch.tensor(sizes, dtype=torch.int64, device=device),
    )


def encode(layout: Layout, difference: Difference, message: Message) -> None:
    """Pass over the vectors, and once over the segments' sums."""
    check_alignment([message])
    device, payload = difference.value.device, message.payload
    segments = segments_of(layout.sizes, device)
    places, sizes = _tables(layout.sizes, device)
    sums = torch.empty(segments.num_programs, dtype=torch.float64, device=device)
    launch_on_segments(_encode, segments, *difference, payload, places, sums)
    launch(_write_means, layout.num_tensors, payload, sizes, segments.firsts, sums)


def accumulate(layout: Layout, added: WeightedSum) -> None:
    places, _ = _tables(layout.sizes, added.targets[0].device)
    add_entries(_decode, places, layout, added)
