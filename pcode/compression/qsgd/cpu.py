"""CPU kernels of the quantizing compressor, which describes the message."""

import numpy as np
from numpy.typing import NDArray

from pcode.compression.base import Difference, Message, WeightedSum
from pcode.compression.draws import words_of
from pcode.compression.kernels.cpu.blocks import (
    add_scaled,
    add_squares,
    pack_signs,
    subtract,
    total_of,
    unpack_bits,
)
from pcode.compression.kernels.cpu.cache import kernel
from pcode.compression.kernels.cpu.memory import (
    BLOCK,
    Addresses,
    Bytes,
    Doubles,
    Floats,
    Ints,
    Words,
    addresses_of,
    addresses_of_sum,
    bytes_at,
    floats_at,
)
from pcode.compression.kernels.cpu.parallel import run_segments, sum_segments
from pcode.compression.kernels.cpu.vectors import LANES
from pcode.compression.qsgd.places import LARGEST_NORM, errors_of, places_of
from pcode.utils.layout import Layout

# Counting in an array keeps the loop over it at 32 bits.
_NUMBERS = np.arange(BLOCK, dtype=np.uint32)


@kernel
def _sum_squares(
    difference: Addresses, sums: Doubles, segments: Ints, first: int, last: int
) -> None:
    """Sum the squares of value - reference, segment by segment, in float64."""
    room, lanes = np.empty(BLOCK, np.float32), np.empty(LANES)
    for segment in range(first, last):
        _, offset, start, size = segments[segment]
        end = offset + start + size
        lanes[:] = 0
        for entry in range(offset + start, end, BLOCK):
            subtract(difference, entry, min(BLOCK, end - entry), room)
            add_squares(lanes, room)
        sums[segment] = total_of(lanes)


@kernel
def _draw(counter: np.uint32, before: np.uint32, between: np.uint32) -> np.int32:
    """31 uniform bits: `lowbias32` of C. Wellons ("Prospecting for Hash Functions").

    A word of the key is added before it, and another one is put between its halves.
    """
    x = np.uint32(counter + before)
    x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32((x ^ (x >> np.uint32(15)) ^ between) * np.uint32(0x846CA68B))
    drawn: np.int32 = np.int32(np.uint32(x ^ (x >> np.uint32(16))) >> np.uint32(1))
    return drawn


@kernel
def _round(
    block: Floats,
    start: int,
    power: np.float32,
    scale: np.float32,
    before: np.uint32,
    between: np.uint32,
    most: np.int32,
    levels: NDArray[np.int32],
) -> None:
    """Set levels to what is sent of the magnitudes of a block.

    That is |v| times power and scale, rounded down, or up with the probability of its fraction, and
    at most `most`. Whole part and fraction are apart, so that no sum is rounded.

    Args:
        start: the number of the first entry in its tensor.
        before, between: the words of the tensor.
    """
    first = np.uint32(start + before)
    for i in range(BLOCK):
        scaled = abs(block[i]) * power * scale
        whole = np.int32(scaled)
        limit = np.int32((scaled - np.float32(whole)) * np.float32(2.0**31))
        up = _draw(_NUMBERS[i], first, between) < limit
        levels[i] = min(np.int32(whole + np.int32(up)), most)


@kernel
def _pack_by(levels: NDArray[np.int32], packed: Bytes, bits: int, a_byte: int) -> None:
    for byte in range(packed.size):
        together = np.uint8(0)
        for number in range(a_byte):
            together |= np.uint8(levels[a_byte * byte + number] << (bits * number))
        packed[byte] = together


@kernel
def _pack(bits: int, levels: NDArray[np.int32], packed: Bytes) -> None:
    """Write levels of so many bits, the first in the lowest."""
    # The numbers are constants in loops, so that these become vector code.
    if bits == 1:
        _pack_by(levels, packed, 1, 8)
    elif bits == 2:
        _pack_by(levels, packed, 2, 4)
    elif bits == 4:
        _pack_by(levels, packed, 4, 2)
    elif bits == 8:
        _pack_by(levels, packed, 8, 1)
    else:
        pairs = packed.view(np.uint16)
        for i in range(pairs.size):
            pairs[i] = levels[i]


@kernel
def _unpack_by(packed: Bytes, levels: NDArray[np.uint16], bits: int, a_byte: int) -> None:
    for byte in range(packed.size):
        for number in range(a_byte):
            levels[a_byte * byte + number] = (packed[byte] >> (bits * number)) & ((1 << bits) - 1)


@kernel
def _unpack(bits: int, packed: Bytes, levels: NDArray[np.uint16]) -> None:
    """Reverse `_pack`."""
    if bits == 1:
        _unpack_by(packed, levels, 1, 8)
    elif bits == 2:
        _unpack_by(packed, levels, 2, 4)
    elif bits == 4:
        _unpack_by(packed, levels, 4, 2)
    elif bits == 8:
        _unpack_by(packed, levels, 8, 1)
    else:
        pairs = packed.view(np.uint16)
        for i in range(pairs.size):
            levels[i] = pairs[i]


@kernel
def _encode(
    difference: Addresses,
    payload: int,
    bits: int,
    places: Ints,
    factors: Floats,
    words: Words,
    segments: Ints,
    first: int,
    last: int,
) -> None:
    """Write signs and magnitudes of value - reference, reading both once."""
    room, levels = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int32)
    most = np.int32((1 << bits) - 1)
    for segment in range(first, last):
        tensor, offset, start, size = segments[segment]
        power, scale = factors[tensor, 0], factors[tensor, 1]
        before, between = words[tensor, 0], words[tensor, 1]
        for begin in range(start, start + size, BLOCK):
            num_entries = min(BLOCK, start + size - begin)
            subtract(difference, offset + begin, num_entries, room)
            _round(room, begin, power, scale, before, between, most, levels)
            signs = payload + places[tensor, 0] + begin // 8
            pack_signs(room, num_entries, signs)
            magnitudes = payload + places[tensor, 1] + begin * bits // 8
            _pack(bits, levels, bytes_at(magnitudes, (num_entries * bits + 7) // 8))


@kernel
def _decode(
    message: int,
    bits: int,
    tensor: int,
    signs: int,
    magnitudes: int,
    size: int,
    flags: Bytes,
    levels: NDArray[np.uint16],
    decoded: Floats,
) -> None:
    """Decode `size` entries of a tensor.

    Args:
        message: its address.
        signs, magnitudes: where the entries' begin in the message.
        flags, levels, decoded: room for a BLOCK.
    """
    scale = floats_at(message + 4 * tensor, 1)[0]
    unpack_bits(bytes_at(message + signs, (size + 7) // 8), flags)
    _unpack(bits, bytes_at(message + magnitudes, (size * bits + 7) // 8), levels)
    for i in range(BLOCK):
        entry = scale * np.float32(levels[i])
        decoded[i] = -entry if flags[i] else entry


@kernel
def _accumulate(
    targets: Ints,
    payloads: Ints,
    weights: Floats,
    bits: int,
    places: Ints,
    segments: Ints,
    first: int,
    last: int,
) -> None:
    """targets[k] += weights[k, m] * message m, in one pass over the memory of the targets."""
    flags, levels = np.empty(BLOCK, np.uint8), np.empty(BLOCK, np.uint16)
    decoded = np.empty(BLOCK, np.float32)
    for segment in range(first, last):
        tensor, offset, start, size = segments[segment]
        for begin in range(start, start + size, BLOCK):
            num_entries = min(BLOCK, start + size - begin)
            signs = places[tensor, 0] + begin // 8
            magnitudes = places[tensor, 1] + begin * bits // 8
            for m in range(payloads.size):
                message = payloads[m]
                _decode(
                    message, bits, tensor, signs, magnitudes, num_entries, flags, levels, decoded
                )
                for k in range(targets.size):
                    if weights[k, m] != 0:
                        target = floats_at(targets[k] + 4 * (offset + begin), num_entries)
                        add_scaled(target, decoded, weights[k, m])


def _scales(layout: Layout, norms: Doubles, level: int, is_biased: bool) -> Doubles:
    """Return what the integers of each tensor are multiplied by."""
    scales = norms / ((1 << level) - 1)
    if is_biased:
        scales /= 1 + errors_of(layout.sizes, level)
    return scales


def _factors(level: int, norms: Doubles) -> Floats:
    """Return two factors whose product is s / ||v||_2, num_tensors x 2.

    The first is a power of two that brings the norm near 1, as s / ||v||_2 itself may be too
    large or too small for float32.
    """
    powers = np.ldexp(1.0, np.clip(-np.frexp(norms)[1], -126, 127))
    s = (1 << level) - 1
    rest = np.divide(s, norms * powers, out=np.zeros_like(norms), where=norms > 0)
    return np.stack([powers, rest], axis=1).astype(np.float32)


def encode(
    layout: Layout, difference: Difference, message: Message, level: int, is_biased: bool
) -> None:
    vectors = addresses_of(difference)
    squares = sum_segments(_sum_squares, layout, vectors)
    norms = np.minimum(np.sqrt(squares), LARGEST_NORM)
    scales = message.payload.numpy()[: 4 * norms.size].view("<f4")
    scales[:] = _scales(layout, norms, level, is_biased)
    run_segments(
        _encode,
        layout.sizes,
        vectors,
        message.payload.data_ptr(),
        level,
        places_of(layout.sizes, level),
        _factors(level, norms),
        words_of(message.key, layout.num_tensors, 2),
    )


def accumulate(layout: Layout, added: WeightedSum, level: int, is_biased: bool) -> None:
    places = places_of(layout.sizes, level)
    run_segments(_accumulate, layout.sizes, *addresses_of_sum(added), level, places)
