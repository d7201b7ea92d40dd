"""Elias-Fano codes: ascending positions in less than 2 + log2(places / positions) bits each.

The code of K positions p_0 < p_1 < ... below D, with l = max(0, floor(log2(D / K))), is K l bits
that hold the l low bits of each, lowest bit first, then (from a byte of its own) K + ((D - 1) >> l)
bits, of which bit (p_i >> l) + i is one for each i: before a one lie as many zeros as its position
has in its high bits, and as many ones as there are positions before it. Both parts end in zeros
up to a whole byte. The size depends on K and D alone.

Source: P. Elias, Efficient storage and retrieval by content and address of static files, Journal
of the ACM 21(2), 1974.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pcode.compression.kernels.lanes import (
    kernel,
    load_word,
    load_word_first,
    ones,
    store_word,
    store_word_first,
    trailing_zeros,
)

# Positions that one thread encodes at least: a multiple of 64, so that no two share a word.
CHUNK = 1 << 16


class Code(NamedTuple):
    """The form of a code.

    Attributes:
        num_positions: K.
        low_bits: l.
        low_bytes, high_bytes: of the two parts.
    """

    num_positions: int
    low_bits: int
    low_bytes: int
    high_bytes: int

    @property
    def num_bytes(self) -> int:
        return self.low_bytes + self.high_bytes

    @property
    def num_chunks(self) -> int:
        return -(-self.num_positions // CHUNK)


def code_of(num_positions: int, num_places: int) -> Code:
    """The form of the code of K positions below D = num_places; K <= D <= 2^32."""
    if num_positions == 0:
        return Code(0, 0, 0, 0)
    low_bits = (num_places // num_positions).bit_length() - 1
    num_high_bits = num_positions + ((num_places - 1) >> low_bits)
    return Code(
        num_positions, low_bits, (num_positions * low_bits + 7) // 8, (num_high_bits + 7) // 8
    )


@kernel
def _encode_low(
    positions: NDArray[np.uint32], low: int, low_bits: int, start: int, end: int
) -> None:
    """Write the low bits of positions start to end - 1; start is a multiple of 64."""
    mask = (1 << low_bits) - 1
    address = low + start // 8 * low_bits
    word = filled = 0
    for index in range(start, end):
        bits = np.int64(positions[index]) & mask
        word |= bits << filled
        filled += low_bits
        if filled >= 64:
            store_word(address, word)
            address += 8
            filled -= 64
            word = bits >> (low_bits - filled)
    if filled > 0:
        store_word_first(address, (filled + 7) // 8, word)


@kernel
def _encode_high(
    positions: NDArray[np.uint32], high: int, high_bytes: int, low_bits: int, start: int, end: int
) -> None:
    """Write the words from that of position start up to that of position end, or to the end."""
    first = start
    at = 0
    if start > 0:
        at = ((np.int64(positions[start]) >> low_bits) + start) >> 6
        while ((np.int64(positions[first - 1]) >> low_bits) + first - 1) >> 6 == at:
            first -= 1
    last = high_bytes // 8
    if end < positions.size:
        last = ((np.int64(positions[end]) >> low_bits) + end) >> 6
    word = 0
    for index in range(first, end):
        bit = (np.int64(positions[index]) >> low_bits) + index
        while at < bit >> 6:
            store_word(high + 8 * at, word)
            word = 0
            at += 1
        word |= 1 << (bit & 63)
    while at < last:
        store_word(high + 8 * at, word)
        word = 0
        at += 1
    if end == positions.size and high_bytes % 8 > 0:
        store_word_first(high + 8 * at, high_bytes % 8, word)


@kernel
def encode(positions: NDArray[np.uint32], code: Code, address: int, first: int, last: int) -> None:
    """Write what chunks first to last - 1 of the positions add to the code at the address."""
    start, end = first * CHUNK, min(last * CHUNK, positions.size)
    _encode_low(positions, address, code.low_bits, start, end)
    _encode_high(positions, address + code.low_bytes, code.high_bytes, code.low_bits, start, end)


@kernel
def _word(address: int, offset: int, num_bytes: int) -> int:
    """The 8 bytes at the offset, with zeros for those past num_bytes."""
    word: int
    if offset + 8 <= num_bytes:
        word = load_word(address + offset)
    else:
        word = load_word_first(address + offset, max(0, num_bytes - offset))
    return word


@kernel
def find(code: Code, address: int, place: int) -> tuple[int, int]:
    """Where to begin decoding to get every position from `place` on: its index and its bit."""
    zeros = place >> code.low_bits
    high = address + code.low_bytes
    offset = before = 0
    word = _word(high, 0, code.high_bytes)
    while offset < code.high_bytes and before + 64 - ones(word) < zeros:
        before += 64 - ones(word)
        offset += 8
        word = _word(high, offset, code.high_bytes)
    bit = 8 * offset
    while before < zeros and bit < 8 * code.high_bytes:
        before += 1 - ((word >> (bit & 63)) & 1)
        bit += 1
    return bit - before, bit


@kernel
def decode(
    code: Code, address: int, index: int, bit: int, positions: NDArray[np.int64]
) -> tuple[int, int]:
    """Decode the positions from the index and its bit on, as many as there are and fit.

    Returns their number and the bit where to go on. Whatever the bytes are, none but the code's
    own are read; but positions that no encoder wrote may lie outside the places, in any order.
    """
    high = address + code.low_bytes
    mask = (1 << code.low_bits) - 1
    limit = min(positions.size, code.num_positions - index)
    offset = bit // 64 * 8
    word = _word(high, offset, code.high_bytes) & (-1 << (bit & 63))
    for found in range(limit):
        while word == 0:
            offset += 8
            if offset >= code.high_bytes:
                return found, bit
            word = _word(high, offset, code.high_bytes)
        bit = 8 * offset + trailing_zeros(word)
        word &= word - 1
        low_bit = index * code.low_bits
        low = _word(address, low_bit >> 3, code.low_bytes) >> (low_bit & 7)
        positions[found] = ((bit - index) << code.low_bits) | (low & mask)
        index += 1
        bit += 1
    return max(0, limit), bit
