"""GPU kernels for messages of all entries as float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from pcode.compression.base import Compressor, Message
from pcode.compression.gpu.accumulate import add_entries
from pcode.compression.gpu.blocks import difference, floats_at, rows_of, segment_of
from pcode.compression.gpu.memory import (
    check_inputs,
    launch_on_segments,
    segments_of,
)
from pcode.utils.layout import Layout


@triton.jit
def _encode(
    value: tl.tensor,
    reference: tl.tensor,
    payload: tl.tensor,
    segments: tl.tensor,
    ALIGNMENT: tl.constexpr,
    ENTRIES: tl.constexpr,
) -> None:
    _, first, _, size = segment_of(segments, ALIGNMENT)
    _, _, entries = rows_of(ENTRIES)
    inside = entries < size
    places = first + entries
    result = difference(value, reference, places, inside)
    tl.store(floats_at(payload) + places, result, mask=inside)


@triton.jit
def _decode(
    payload: tl.tensor,
    table: tl.tensor,
    tensor: tl.tensor,
    first: tl.tensor,
    start: tl.tensor,
    size: tl.tensor,
    BITS: tl.constexpr,
    ENTRIES: tl.constexpr,
) -> Any:
    _, _, entries = rows_of(ENTRIES)
    return tl.load(floats_at(payload) + first + entries, mask=entries < size)


def encode(
    compressor: Compressor,
    layout: Layout,
    value: torch.Tensor,
    reference: torch.Tensor | None,
    message: Message,
) -> None:
    """As `NoCompression.encode`, on the GPU."""
    check_inputs(compressor, layout, value, reference, message)
    segments = segments_of(layout, value.device)
    launch_on_segments(
        _encode,
        segments,
        value,
        reference,
        message.payload,
        segments.rows,
    )


def accumulate(
    compressor: Compressor,
    layout: Layout,
    messages: Sequence[Message],
    targets: Sequence[torch.Tensor],
    weights: Sequence[Sequence[float]],
) -> None:
    """As `NoCompression.accumulate`, on the GPU."""
    add_entries(_decode, None, compressor, layout, messages, targets, weights)
