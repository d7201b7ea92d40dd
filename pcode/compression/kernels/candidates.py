"""Candidates for the largest entries: those whose magnitudes reach a threshold.

Magnitudes are compared as the integers that their bits are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pcode.compression.kernels.lanes import (
    FLOATS_BYTES,
    LANES,
    add_ints,
    broadcast_int,
    count,
    is_at_least,
    kernel,
    lane_numbers,
    larger,
    largest,
    load,
    load_first,
    magnitude_bits,
    store_selected,
    store_selected_ints,
    subtract,
)

INFINITY_BITS = 0x7F800000
MAGNITUDE_BITS = 0x7FFFFFFF
# Numba compiles a function anew for each literal among its arguments.
NONE = np.int64(0)
# Columns of the table of segments, as pcode.compression.parallel makes it.
TENSOR, START, ENTRIES = 0, 2, 3


class Difference(NamedTuple):
    """The vector to compress: addresses, and bytes from one entry of the reference to the next."""

    value: int
    reference: int
    reference_stride: int


class Candidates(NamedTuple):
    """Entries that may be kept, segment by segment, in the order of their positions.

    Attributes:
        bits: of the differences, as int32.
        positions: in the vector.
        spans: of each segment, the first of its candidates and their number; -1 where they are
            not at hand and have to be read again.
    """

    bits: NDArray[np.int32]
    positions: NDArray[np.uint32]
    spans: NDArray[np.int64]


@kernel
def address(array: NDArray[Any]) -> int:
    # As a signed number: Numba adds signed and unsigned ones as float64.
    return int(np.int64(array.ctypes.data))


@kernel
def collect_range(
    difference: Difference,
    position: int,
    num_entries: int,
    threshold: int,
    candidates: Candidates,
    begin: int,
    end: int,
) -> tuple[int, int]:
    """Put the entries of at least the threshold at begin, begin + 1, ... of the candidates.

    Returns their number, which is more than end - begin where only the first of them are stored,
    and the bits of the largest magnitude.

    Args:
        position: of the first entry.
    """
    value = difference.value + 4 * position
    reference = difference.reference + position * difference.reference_stride
    bits, positions = address(candidates.bits), address(candidates.positions)
    least, step = broadcast_int(np.int32(threshold)), broadcast_int(np.int32(LANES))
    places = add_ints(lane_numbers(), broadcast_int(np.int32(position)))
    top = broadcast_int(np.int32(0))
    at = begin
    for start in range(0, num_entries, LANES):
        rest = num_entries - start
        if rest >= LANES:
            entries = subtract(load(value), load(reference))
        else:
            entries = subtract(load_first(value, 4 * rest), load_first(reference, 4 * rest))
        magnitudes = magnitude_bits(entries)
        top = larger(top, magnitudes)
        selected = is_at_least(magnitudes, least)
        found = count(selected)
        if found > 0:
            if at + found <= end:
                store_selected(bits + 4 * at, selected, entries)
                store_selected_ints(positions + 4 * at, selected, places)
            at += found
        value += FLOATS_BYTES
        reference += LANES * difference.reference_stride
        places = add_ints(places, step)
    if threshold <= 0:
        # The lanes past the last entry are zeros, and the last to be found.
        at -= -num_entries % LANES
    return at - begin, largest(top)


@kernel
def read_candidates(
    difference: Difference,
    segments: NDArray[np.int64],
    segment: int,
    threshold: int,
    candidates: Candidates,
    spare: Candidates,
) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
    """Bits and positions of a segment's candidates: of all that reach the threshold, at least."""
    begin, number = candidates.spans[segment]
    if number >= 0:
        return candidates.bits[begin : begin + number], candidates.positions[begin : begin + number]
    position = segments[segment, 1] + segments[segment, START]
    number, _ = collect_range(
        difference, position, segments[segment, ENTRIES], threshold, spare, NONE, spare.bits.size
    )
    return spare.bits[:number], spare.positions[:number]
