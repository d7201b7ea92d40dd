"""What the GPU kernels share: a program's entries, the difference, packed bits, drawn words.

A program has the entries of a segment, eight to a row: row r holds those whose bits are in byte r.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit
def segment_of(segments: tl.tensor, ALIGNMENT: tl.constexpr) -> Any:
    """This program's tensor, its first entry in the vector and in the tensor, and its entries.

    Args:
        ALIGNMENT: entries that the sizes of all tensors are multiples of.
    """
    row = segments + 4 * tl.program_id(0).to(tl.int64)
    start = tl.load(row + 2)
    first = tl.multiple_of(tl.load(row + 1) + start, ALIGNMENT)
    return tl.load(row), first, start, tl.multiple_of(tl.load(row + 3), ALIGNMENT)


@triton.jit
def rows_of(ENTRIES: tl.constexpr) -> Any:
    """The numbers of a segment's rows (a column), of the entries in a row, and of all entries."""
    rows = tl.arange(0, ENTRIES // 8)[:, None]
    columns = tl.arange(0, 8)[None, :]
    return rows, columns, 8 * rows + columns


@triton.jit
def difference(value: tl.tensor, reference: tl.tensor, places: tl.tensor, inside: tl.tensor) -> Any:
    """value - reference at these places, 0 outside; the value where there is no reference."""
    result = tl.load(value + places, mask=inside, other=0.0)
    if reference is not None:
        result -= tl.load(reference + places, mask=inside, other=0.0)
    return result


@triton.jit
def packed(integers: tl.tensor, columns: tl.tensor, BITS: tl.constexpr) -> Any:
    """A byte for each row of integers of BITS bits, the first in the lowest; a column."""
    return tl.sum(integers << (BITS * columns), axis=1, keep_dims=True).to(tl.uint8)


@triton.jit
def floats_at(payload: tl.tensor) -> Any:
    """The pointer to the float32 numbers that a payload begins with."""
    return payload.to(tl.pointer_type(tl.float32))


@triton.jit
def signed(
    magnitudes: tl.tensor,
    payload: tl.tensor,
    place: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    size: tl.tensor,
) -> Any:
    """The magnitudes of a segment's entries with signs from bits that begin at a byte's place."""
    bits = tl.load(payload + place + rows, mask=8 * rows < size, other=0).to(tl.int32)
    return tl.where(((bits >> columns) & 1) != 0, -magnitudes, magnitudes)


@triton.jit
def mixed(key: tl.tensor, number: tl.tensor) -> Any:
    """Number `number` of SplitMix64 started at the key: 64 bits."""
    z = (number + 1).to(tl.uint64) * 0x9E3779B97F4A7C15 + key.to(tl.uint64)
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def word_of(key: tl.tensor, number: tl.tensor) -> Any:
    """Word `number` that both ends draw from a key: `pcode.compression.draws.words_of`, flat."""
    return (mixed(key, number) >> 32).to(tl.uint32)
