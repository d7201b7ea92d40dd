"""GPU kernels for messages of all entries as float32."""

from typing import Any

import triton
import triton.language as tl

from pcode.compression.base import Difference, Message, WeightedSum
from pcode.compression.kernels.gpu.accumulate import add_entries
from pcode.compression.kernels.gpu.blocks import difference_of_segment, floats_at, rows_of
from pcode.compression.kernels.gpu.launch import check_alignment, launch_on_segments, segments_of
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
    _, first, _, size, result = difference_of_segment(
        value, reference, segments, ALIGNMENT, ENTRIES
    )
    _, _, entries = rows_of(ENTRIES)
    tl.store(floats_at(payload) + first + entries, result, mask=entries < size)


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


def encode(layout: Layout, difference: Difference, message: Message) -> None:
    check_alignment([message])
    segments = segments_of(layout.sizes, difference.value.device)
    launch_on_segments(_encode, segments, *difference, message.payload)


def accumulate(layout: Layout, added: WeightedSum) -> None:
    add_entries(_decode, None, layout, added)
