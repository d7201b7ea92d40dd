"""Plain loops over a block of entries, each of which Numba and LLVM turn into vector code."""

import numpy as np
from numpy.typing import NDArray

from pcode.compression.kernels.cpu.cache import kernel

# A segment's sum is one of as many sums, of every sixteenth entry, and GROUP entries are added
# before these go back to memory.
LANES = 16
GROUP = 16 * LANES
INFINITY_BITS = 0x7F800000
MAGNITUDE_BITS = 0x7FFFFFFF


@kernel
def subtract(
    value: NDArray[np.float32], reference: NDArray[np.float32], room: NDArray[np.float32]
) -> NDArray[np.float32]:
    """value - reference, in room, followed by zeros up to a multiple of GROUP entries."""
    size = value.size
    for i in range(size):
        room[i] = value[i] - reference[i]
    end = -(-size // GROUP) * GROUP
    for i in range(size, end):
        room[i] = 0
    return room[:end]


@kernel
def largest_magnitude(bits: NDArray[np.int32]) -> int:
    """The bits of the largest magnitude, 0 of none; NaN comes after infinity.

    Args:
        bits: of float32 numbers.
    """
    largest = np.int32(0)
    for i in range(bits.size):
        # Numba makes 64 bits of operations on 32, and of its `max` no vector code.
        magnitude = np.int32(bits[i] & np.int32(MAGNITUDE_BITS))
        if magnitude > largest:  # noqa: PLR1730
            largest = magnitude
    return int(largest)


@kernel
def add_magnitudes(sums: NDArray[np.float64], entries: NDArray[np.float32]) -> None:
    """sums[i] += |e| of every entry e at i, LANES + i, 2 LANES + i, ..., one after the other.

    Args:
        entries: a multiple of GROUP.
    """
    for start in range(0, entries.size, GROUP):
        group = entries[start : start + GROUP]
        for lane in range(LANES):
            total = sums[lane]
            for row in range(GROUP // LANES):
                total += np.float64(abs(group[LANES * row + lane]))
            sums[lane] = total


@kernel
def add_squares(sums: NDArray[np.float64], entries: NDArray[np.float32]) -> None:
    """As `add_magnitudes`, of the squares."""
    for start in range(0, entries.size, GROUP):
        group = entries[start : start + GROUP]
        for lane in range(LANES):
            total = sums[lane]
            for row in range(GROUP // LANES):
                entry = np.float64(group[LANES * row + lane])
                total += entry * entry
            sums[lane] = total


@kernel
def total_of(sums: NDArray[np.float64]) -> float:
    """The sum of the LANES sums, by halves."""
    half = LANES // 2
    while half > 0:
        for lane in range(half):
            sums[lane] += sums[lane + half]
        half //= 2
    return float(sums[0])


@kernel
def pack_signs(entries: NDArray[np.float32], signs: NDArray[np.uint8]) -> None:
    """A bit for each entry, the first in the lowest: 1 where it is below 0, as -0.0 is not."""
    for byte in range(signs.size):
        packed = np.uint8(0)
        for bit in range(8):
            packed |= np.uint8(entries[8 * byte + bit] < 0) << np.uint8(bit)
        signs[byte] = packed


@kernel
def unpack_bits(packed: NDArray[np.uint8], bits: NDArray[np.uint8]) -> None:
    """A byte, 0 or 1, for each bit."""
    for byte in range(packed.size):
        for bit in range(8):
            bits[8 * byte + bit] = (packed[byte] >> bit) & 1


@kernel
def add_scaled(
    target: NDArray[np.float32], addend: NDArray[np.float32], weight: np.float32
) -> None:
    """target += weight * addend; the product is rounded before it is added."""
    for i in range(target.size):
        target[i] += weight * addend[i]
