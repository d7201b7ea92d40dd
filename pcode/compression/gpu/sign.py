"""GPU kernels of the sign compressor; `pcode.compression.sign` describes the message."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl

from pcode.compression.base import Message
from pcode.compression.gpu.accumulate import add_entries
from pcode.compression.gpu.blocks import (
    difference,
    floats_at,
    packed,
    rows_of,
    segment_of,
    signed,
)
from pcode.compression.gpu.memory import (
    check_inputs,
    launch,
    launch_on_segments,
    segments_of,
)
from pcode.compression.gpu.sums import SUMS, sum_of_tensor
from pcode.compression.sign import Sign, places_of
from pcode.utils.layout import Layout


@triton.jit
def _encode(
    value: tl.tensor,
    reference: tl.tensor,
    payload: tl.tensor,
    places: tl.tensor,
    segments: tl.tensor,
    sums: tl.tensor,
    ALIGNMENT: tl.constexpr,
    ENTRIES: tl.constexpr,
) -> None:
    tensor, first, start, size = segment_of(segments, ALIGNMENT)
    rows, columns, entries = rows_of(ENTRIES)
    result = difference(value, reference, first + entries, entries < size)
    bits = packed((result < 0).to(tl.int32), columns, 1)
    to = payload + tl.load(places + tensor) + start // 8
    tl.store(to + rows, bits, mask=8 * rows < size)
    magnitudes = tl.abs(result).to(tl.float64)
    tl.store(sums + tl.program_id(0), tl.sum(tl.sum(magnitudes, axis=1), axis=0))


@triton.jit
def _write_means(
    payload: tl.tensor, sizes: tl.tensor, firsts: tl.tensor, sums: tl.tensor, SUMS: tl.constexpr
) -> None:
    tensor = tl.program_id(0)
    size = tl.maximum(tl.load(sizes + tensor), 1).to(tl.float64)
    mean = sum_of_tensor(firsts, sums, SUMS) / size
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
    rows, columns, _ = rows_of(ENTRIES)
    mean = tl.load(floats_at(payload) + tensor)
    return signed(mean, payload, tl.load(places + tensor) + start // 8, rows, columns, size)


@lru_cache(maxsize=64)
def _tables(sizes: tuple[int, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the bits of each tensor begin in a message, and the tensors' sizes."""
    return (
        torch.from_numpy(places_of(sizes)).to(device),
        torch.tensor(sizes, dtype=torch.int64, device=device),
    )


def encode(
    compressor: Sign,
    layout: Layout,
    value: torch.Tensor,
    reference: torch.Tensor | None,
    message: Message,
) -> None:
    """As `Sign.encode`, on the GPU: a pass over the vectors, and one over the segments' sums."""
    device = value.device
    check_inputs(compressor, layout, value, reference, message)
    segments = segments_of(layout, device)
    places, sizes = _tables(layout.sizes, device)
    sums = torch.empty(segments.num_programs, dtype=torch.float64, device=device)
    launch_on_segments(
        _encode,
        segments,
        value,
        reference,
        message.payload,
        places,
        segments.rows,
        sums,
    )
    launch(
        _write_means, layout.num_tensors, message.payload, sizes, segments.firsts, sums, SUMS=SUMS
    )


def accumulate(
    compressor: Sign,
    layout: Layout,
    messages: Sequence[Message],
    targets: Sequence[torch.Tensor],
    weights: Sequence[Sequence[float]],
) -> None:
    """As `Sign.accumulate`, on the GPU."""
    places, _ = _tables(layout.sizes, targets[0].device)
    add_entries(_decode, places, compressor, layout, messages, targets, weights)
