"""What the GPU kernels share: a program's entries, the difference, packed bits, sums, drawn words.

A program has the entries of a segment. Where bits are packed they are eight to a row: row r holds
those whose bits are in byte r.
"""

from typing import Any

import triton
import triton.language as tl

# Numbers in a row of a table of segments.
ROW = tl.constexpr(5)
# Segments whose sums are added at a time.
SUMS = tl.constexpr(512)


@triton.jit
def segment_of(segments: tl.tensor, ALIGNMENT: tl.constexpr) -> Any:
    """Load this program's tensor, its first entry in the vector and in the tensor, its entries.

    Args:
        segments: a table as `Segments.rows`.
        ALIGNMENT: entries that the first one's place in the vector and their number are multiples
            of.
    """
    row = segments + ROW * tl.program_id(0).to(tl.int64)
    start = tl.load(row + 2)
    first = tl.multiple_of(tl.load(row + 1) + start, ALIGNMENT)
    return tl.load(row), first, start, tl.multiple_of(tl.load(row + 3), ALIGNMENT)


@triton.jit
def number_of_segment(segments: tl.tensor) -> Any:
    """Load the number of this program's segment among all."""
    return tl.load(segments + ROW * tl.program_id(0).to(tl.int64) + 4)


@triton.jit
def rows_of(ENTRIES: tl.constexpr) -> Any:
    """Return the numbers of a segment's rows (a column), of a row's entries, and of all entries."""
    rows = tl.arange(0, ENTRIES // 8)[:, None]
    columns = tl.arange(0, 8)[None, :]
    return rows, columns, 8 * rows + columns


@triton.jit
def difference_of_segment(
    value: tl.tensor,
    reference: tl.tensor,
    segments: tl.tensor,
    ALIGNMENT: tl.constexpr,
    ENTRIES: tl.constexpr,
) -> Any:
    """value - reference of this program's entries, in rows, 0 outside, after `segment_of`."""
    tensor, first, start, size = segment_of(segments, ALIGNMENT)
    _, _, entries = rows_of(ENTRIES)
    result = difference(value, reference, first + entries, entries < size)
    return tensor, first, start, size, result


@triton.jit
def difference(value: tl.tensor, reference: tl.tensor, places: tl.tensor, inside: tl.tensor) -> Any:
    """value - reference at these places, 0 outside; the value where there is no reference."""
    result = tl.load(value + places, mask=inside, other=0.0)
    if reference is not None:
        result -= tl.load(reference + places, mask=inside, other=0.0)
    return result


@triton.jit
def packed(integers: tl.tensor, columns: tl.tensor, BITS: tl.constexpr) -> Any:
    """Return a byte for each row of integers of BITS bits, the first in the lowest; a column."""
    return tl.sum(integers << (BITS * columns), axis=1, keep_dims=True).to(tl.uint8)


@triton.jit
def store_signs(to: tl.tensor, entries: tl.tensor, size: tl.tensor, ENTRIES: tl.constexpr) -> None:
    """Write a bit for each of a segment's entries: 1 where it is below 0, as -0.0 is not."""
    rows, columns, _ = rows_of(ENTRIES)
    bits = packed((entries < 0).to(tl.int32), columns, 1)
    tl.store(to + rows, bits, mask=8 * rows < size)


@triton.jit
def signed(magnitudes: tl.tensor, signs: tl.tensor, size: tl.tensor, ENTRIES: tl.constexpr) -> Any:
    """Return the magnitudes of a segment's entries with the signs whose bits are at a pointer."""
    rows, columns, _ = rows_of(ENTRIES)
    bits = tl.load(signs + rows, mask=8 * rows < size, other=0).to(tl.int32)
    return tl.where(((bits >> columns) & 1) != 0, -magnitudes, magnitudes)


@triton.jit
def floats_at(payload: tl.tensor) -> Any:
    """Return the pointer to the float32 numbers that a payload begins with."""
    return payload.to(tl.pointer_type(tl.float32))


@triton.jit
def store_sum(sums: tl.tensor, segments: tl.tensor, entries: tl.tensor) -> None:
    """Write the float64 sum of this program's entries."""
    tl.store(sums + number_of_segment(segments), tl.sum(tl.sum(entries, axis=1), axis=0))


@triton.jit
def sum_of_tensor(firsts: tl.tensor, sums: tl.tensor) -> Any:
    """Return the float64 sum of the tensor that this program's number is, always in the same order.

    Args:
        firsts: the number of each tensor's first segment, and of all.
        sums: of each segment, as `store_sum` writes them.
    """
    tensor = tl.program_id(0)
    last = tl.load(firsts + tensor + 1)
    total = tl.zeros([SUMS], tl.float64)
    start = tl.load(firsts + tensor)
    while start < last:  # Triton 3.6's interpreter has no range of what was loaded with NumPy 2.4
        numbers = start + tl.arange(0, SUMS)
        total += tl.load(sums + numbers, mask=numbers < last, other=0.0)
        start += SUMS
    return tl.sum(total, axis=0)


@triton.jit
def mixed(key: tl.tensor, number: tl.tensor) -> Any:
    """Draw number `number` of SplitMix64 started at the key: 64 bits."""
    z = (number + 1).to(tl.uint64) * 0x9E3779B97F4A7C15 + key.to(tl.uint64)
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def word_of(key: tl.tensor, number: tl.tensor) -> Any:
    """Word `number` that both ends draw from a key: `pcode.compression.draws.words_of`, flat."""
    return (mixed(key, number) >> 32).to(tl.uint32)
