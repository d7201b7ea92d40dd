"""GPU kernels that add decoded messages into vectors, whatever the compressor."""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from pcode.compression.base import WeightedSum
from pcode.compression.kernels.gpu.blocks import rows_of, segment_of
from pcode.compression.kernels.gpu.launch import (
    batches,
    launch_on_segments,
    segments_of,
    with_weights,
)
from pcode.utils.layout import Layout


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
    """Read and write each target once, and decode each message once for all targets.

    A message of weight 0 is left out of a target.
    """
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
            weight = weights[m][k]
            sums += (tl.where(weight != 0, before[k] + weight * decoded, before[k]),)
    for k in tl.static_range(len(targets)):
        tl.store(targets[k] + first + entries, sums[k], mask=inside)


def add_entries(
    decode: Any, table: torch.Tensor | None, layout: Layout, added: WeightedSum, bits: int = 0
) -> None:
    """Do as `Compressor.accumulate`, with messages that hold something of every entry.

    Args:
        decode: a Triton function that gives a segment's entries in rows of eight, from a payload,
            the table, the segment's tensor, its first entry in the vector and in the tensor, its
            entries, the bits and the constant SEGMENT_ENTRIES.
    """
    targets, used = added.targets, with_weights(added)
    segments = segments_of(layout.sizes, targets[0].device)
    for part in batches(len(used)):
        batch = used[part]
        into = [k for k in range(len(targets)) if any(column[k] for _, column in batch)]
        launch_on_segments(
            _add_entries,
            segments,
            tuple(targets[k] for k in into),
            tuple(message.payload for message, _ in batch),
            tuple(tuple(column[k] for k in into) for _, column in batch),
            table,
            DECODE=decode,
            BITS=bits,
        )


def weighted(
    targets: Sequence[torch.Tensor], column: Sequence[float]
) -> tuple[tuple[torch.Tensor, ...], tuple[float, ...]]:
    """Return the targets that a message is added to, and its weights."""
    into = [k for k, weight in enumerate(column) if weight]
    return tuple(targets[k] for k in into), tuple(column[k] for k in into)


@triton.jit
def add_at(
    targets: tl.tuple, weights: tl.tuple, places: tl.tensor, inside: tl.tensor, values: tl.tensor
) -> None:
    """target += weight * value at these places, which are distinct, for each target."""
    for k in tl.static_range(len(targets)):
        target = targets[k] + places
        added = tl.load(target, mask=inside) + weights[k] * values
        tl.store(target, added, mask=inside)
