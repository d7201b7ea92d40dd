"""Plain loops over a block of entries, each of which Numba and LLVM turn into vector code."""

import numpy as np
from numpy.typing import NDArray

from pcode.compression.kernels.cpu.cache import kernel
from pcode.compression.kernels.cpu.memory import (
    BLOCK,
    Addresses,
    Bytes,
    Doubles,
    Floats,
    bytes_at,
    floats_at,
    store_word,
)
from pcode.compression.kernels.cpu.vectors import LANES, WORD, bits_below_zero

INFINITY_BITS = 0x7F800000
MAGNITUDE_BITS = 0x7FFFFFFF


@kernel
def subtract(difference: Addresses, entry: int, size: int, room: Floats) -> None:
    """Set room to value - reference of a block that begins at an entry, and the rest to zero."""
    value = floats_at(difference.value + 4 * entry, size)
    reference = floats_at(difference.reference + 4 * difference.stride * entry, size)
    for i in range(size):
        room[i] = value[i] - reference[i]
    for i in range(size, BLOCK):
        room[i] = 0


@kernel
def largest_magnitude(bits: NDArray[np.int32]) -> int:
    """Return the bits of the largest magnitude, 0 of none; NaN comes after infinity.

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
def add_squares(sums: Doubles, block: Floats) -> None:
    """sums[i] += e e of every entry e at i, LANES + i, 2 LANES + i, ..., one after the other."""
    for lane in range(LANES):
        total = sums[lane]
        for row in range(BLOCK // LANES):
            entry = np.float64(block[LANES * row + lane])
            total += entry * entry
        sums[lane] = total


@kernel
def total_of(sums: Doubles) -> float:
    """Return the sum of the LANES sums, by halves."""
    half = LANES // 2
    while half > 0:
        for lane in range(half):
            sums[lane] += sums[lane + half]
        half //= 2
    return float(sums[0])


@kernel
def pack_signs(room: Floats, size: int, address: int) -> None:
    """Write a bit for each of `size` entries, the first in the lowest: 1 where it is below 0.

    -0.0 is not.

    Args:
        room: a BLOCK, filled up with zeros.
    """
    entries, whole = room.ctypes.data, size // WORD * WORD
    for first in range(0, whole, WORD):
        store_word(address + first // 8, bits_below_zero(entries + 4 * first))
    if whole < size:
        word = bits_below_zero(entries + 4 * whole)
        signs = bytes_at(address + whole // 8, (size - whole + 7) // 8)
        for byte in range(signs.size):
            signs[byte] = np.uint8(word >> (8 * byte))


@kernel
def unpack_bits(packed: Bytes, bits: Bytes) -> None:
    """Write a byte, 0 or 1, for each bit."""
    for byte in range(packed.size):
        for bit in range(8):
            bits[8 * byte + bit] = (packed[byte] >> bit) & 1


@kernel
def add_scaled(target: Floats, addend: Floats, weight: np.float32) -> None:
    """target += weight * addend; the product is rounded before it is added."""
    for i in range(target.size):
        target[i] += weight * addend[i]
