"""Candidates for the largest entries: those whose magnitudes reach a threshold.

Magnitudes are compared as the integers that their bits are.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pcode.compression.kernels.cpu.blocks import MAGNITUDE_BITS, subtract
from pcode.compression.kernels.cpu.cache import kernel
from pcode.compression.kernels.cpu.elias_fano import trailing_zeros
from pcode.compression.kernels.cpu.memory import BLOCK, Addresses, Ints, Words


class Candidates(NamedTuple):
    """Entries that may be selected, segment by segment, in the order of their positions.

    Attributes:
        bits: of the differences, as int32.
        positions: in the vector.
        spans: of each segment, the first of its candidates and their number; -1 where they are
            not at hand and have to be read again.
    """

    bits: NDArray[np.int32]
    positions: Words
    spans: Ints


@kernel
def _mark(bits: NDArray[np.int32], threshold: np.int32, marks: Ints) -> None:
    """Set a bit for each entry of a block, from the lowest on: whether it reaches the threshold."""
    for i in range(marks.size):
        word = np.int64(0)
        for bit in range(64):
            magnitude = np.int32(bits[64 * i + bit] & np.int32(MAGNITUDE_BITS))
            word |= np.int64(magnitude >= threshold) << np.int64(bit)
        marks[i] = word


@kernel
def collect_range(
    difference: Addresses,
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
    room, words = np.empty(BLOCK, np.float32), np.empty(BLOCK // 64, np.int64)
    bits = room.view(np.int32)
    at, largest = begin, np.int32(0)
    for start in range(position, position + num_entries, BLOCK):
        size = min(BLOCK, position + num_entries - start)
        subtract(difference, start, size, room)
        _mark(bits, np.int32(threshold), words)
        if size % 64 > 0:
            # Zeros that fill up the block are no candidates.
            words[size // 64] &= (1 << (size % 64)) - 1
        for number in range((size + 63) // 64):
            word = words[number]
            while word != 0:
                entry = 64 * number + trailing_zeros(word)
                word &= word - 1
                # Numba looks for numbers below 0 among signed indexes.
                each = bits[np.uint64(entry)]
                largest = max(largest, np.int32(each & np.int32(MAGNITUDE_BITS)))
                if at < end:
                    candidates.bits[np.uint64(at)] = each
                    candidates.positions[np.uint64(at)] = start + entry
                at += 1
    return at - begin, int(largest)


@kernel
def read_candidates(
    difference: Addresses,
    segments: Ints,
    segment: int,
    threshold: int,
    candidates: Candidates,
    spare: Candidates,
) -> tuple[NDArray[np.int32], Words]:
    """Bits and positions of a segment's candidates: of all that reach the threshold, at least."""
    begin, number = candidates.spans[segment]
    if number >= 0:
        return candidates.bits[begin : begin + number], candidates.positions[begin : begin + number]
    _, offset, start, size = segments[segment]
    number, _ = collect_range(
        difference, offset + start, size, threshold, spare, 0, spare.bits.size
    )
    return spare.bits[:number], spare.positions[:number]
