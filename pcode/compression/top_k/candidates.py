"""Candidates for the largest entries: those whose magnitudes reach a threshold.

Magnitudes are compared as the integers that their bits are.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pcode.compression.kernels.cpu.blocks import MAGNITUDE_BITS, largest_magnitude, subtract
from pcode.compression.kernels.cpu.cache import kernel
from pcode.compression.kernels.cpu.elias_fano import trailing_zeros
from pcode.compression.kernels.cpu.memory import BLOCK


class Difference(NamedTuple):
    """The vector to compress: value - reference.

    Attributes:
        stride: the step from one entry of the reference to the next: 1, or 0 where a block of zeros
            stands for all.
    """

    value: NDArray[np.float32]
    reference: NDArray[np.float32]
    stride: int


class Candidates(NamedTuple):
    """Entries that may be selected, segment by segment, in the order of their positions.

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
def _mark(bits: NDArray[np.int32], threshold: np.int32, marks: NDArray[np.uint8]) -> None:
    """A bit for each entry, the first in the lowest: whether it reaches the threshold."""
    for byte in range(marks.size):
        packed = np.uint8(0)
        for bit in range(8):
            magnitude = np.int32(bits[8 * byte + bit] & np.int32(MAGNITUDE_BITS))
            packed |= np.uint8(magnitude >= threshold) << np.uint8(bit)
        marks[byte] = packed


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
    room, words = np.empty(BLOCK, np.float32), np.empty(BLOCK // 64, np.int64)
    at, largest = begin, 0
    for start in range(position, position + num_entries, BLOCK):
        size = min(BLOCK, position + num_entries - start)
        reference = difference.reference[difference.stride * start :][:size]
        entries = subtract(difference.value[start : start + size], reference, room)
        bits = entries.view(np.int32)
        largest = max(largest, largest_magnitude(bits))
        _mark(bits, np.int32(threshold), words.view(np.uint8)[: bits.size // 8])
        if size % 64 > 0:
            # Zeros that fill up the block are no candidates.
            words[size // 64] &= (1 << (size % 64)) - 1
        for number in range((size + 63) // 64):
            word = words[number]
            while word != 0:
                entry = 64 * number + trailing_zeros(word)
                word &= word - 1
                if at < end:
                    candidates.bits[at] = bits[entry]
                    candidates.positions[at] = start + entry
                at += 1
    return at - begin, largest


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
    _, offset, start, size = segments[segment]
    number, _ = collect_range(
        difference, offset + start, size, threshold, spare, 0, spare.bits.size
    )
    return spare.bits[:number], spare.positions[:number]
