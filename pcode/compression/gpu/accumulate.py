"""GPU kernels that add decoded messages into vectors, whatever the compressor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from pcode.compression.base import Compressor, Message
from pcode.compression.gpu.blocks import rows_of, segment_of
from pcode.compression.gpu.memory import SEGMENT_ENTRIES, check_sum, launch, segments_of
from pcode.layout import Layout


@triton.jit
def _add_entries(
    targets: tl.tuple,
    payloads: tl.tuple,
    weights: tl.tuple,
    table: tl.tensor,
    segments: tl.tensor,
    DECODE: tl.constexpr,
    BITS: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    ENTRIES: tl.constexpr,
) -> None:
    """Each target is read and written once, each message decoded once for all targets."""
    tensor, first, start, size = segment_of(segments, ALIGNMENT)
    _, _, entries = rows_of(ENTRIES)
    inside = entries < size
    sums: tl.tuple = ()
    for k in tl.static_range(len(targets)):
        sums += (tl.load(targets[k] + first + entries, mask=inside),)
    for m in tl.static_range(len(payloads)):
        decoded = DECODE(payloads[m], table, tensor, first, start, size, BITS, ENTRIES)
        before = sums
        sums = ()
        for k in tl.static_range(len(targets)):
            if weights[k][m] is None:
                sums += (before[k],)
            else:
                sums += (before[k] + weights[k][m] * decoded,)
    for k in tl.static_range(len(targets)):
        tl.store(targets[k] + first + entries, sums[k], mask=inside)


def add_entries(
    decode: Any,
    table: torch.Tensor | None,
    compressor: Compressor,
    layout: Layout,
    messages: Sequence[Message],
    targets: Sequence[torch.Tensor],
    weights: Sequence[Sequence[float]],
    bits: int = 0,
) -> None:
    """As `Compressor.accumulate`, of messages that hold something of every entry: one launch.

    Args:
        decode: a Triton function that gives a segment's entries in rows of eight, from a payload,
            the table, the segment's tensor, its first entry in the vector and in the tensor, its
            entries, the bits and the constant SEGMENT_ENTRIES.
    """
    found = check_sum(compressor, layout, messages, targets, weights)
    used = [m for m in range(len(messages)) if any(row[m] is not None for row in found)]
    segments = segments_of(layout, targets[0].device)
    launch(
        _add_entries,
        segments.num_programs if used else 0,
        tuple(targets),
        tuple(messages[m].payload for m in used),
        tuple(tuple(row[m] for m in used) for row in found),
        table,
        segments.rows,
        DECODE=decode,
        BITS=bits,
        ALIGNMENT=segments.alignment,
        ENTRIES=SEGMENT_ENTRIES,
    )


@triton.jit
def add_at(
    targets: tl.tuple, weights: tl.tuple, places: tl.tensor, inside: tl.tensor, values: tl.tensor
) -> None:
    """target += weight * value at these places, which are distinct, for each target."""
    for k in tl.static_range(len(targets)):
        if weights[k] is not None:
            target = targets[k] + places
            added = tl.load(target, mask=inside) + weights[k] * values
            tl.store(target, added, mask=inside)
