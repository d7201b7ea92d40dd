"""Elias-Fano codes: ascending positions in less than 2 + log2(places / positions) bits each.

The code of K positions p_0 < p_1 < ... below D, with l = max(0, floor(log2(D / K))), is K l bits
that hold the l low bits of each, lowest bit first, then (from a byte of its own) K + ((D - 1) >> l)
bits, of which bit (p_i >> l) + i is one for each i: before a one lie as many zeros as its position
has in its high bits, and as many ones as there are positions before it. Both parts end in zeros
up to a whole byte. The size depends on K and D alone.

Source: P. Elias, Efficient storage and retrieval by content and address of static files, Journal
of the ACM 21(2), 1974.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pcode.compression.kernels.cpu.cache import kernel
from pcode.compression.kernels.cpu.memory import (
    AHEAD,
    Bytes,
    Floats,
    Ints,
    Words,
    bytes_at,
    floats_at,
    load_word,
    prefetch,
    store_word,
)

# Positions that one thread encodes at least: a multiple of 64, so that no two share a word.
CHUNK = 1 << 16
# Decoded positions that stay in the first-level cache while they are added to all targets.
BLOCK = 1024


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
    """Return the form of the code of K positions below D = num_places; K <= D <= 2^32."""
    if num_positions == 0:
        return Code(0, 0, 0, 0)
    low_bits = (num_places // num_positions).bit_length() - 1
    num_high_bits = num_positions + ((num_places - 1) >> low_bits)
    return Code(
        num_positions, low_bits, (num_positions * low_bits + 7) // 8, (num_high_bits + 7) // 8
    )


def _word_operation(emit: Callable[..., Any]) -> Any:
    """Return a function of a word of 64 bits, one of the processor's instructions."""

    @intrinsic
    def operation(_typing: Any, _word: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return emit(builder, *arguments)

        return types.int64(types.int64), generate

    return operation


count_ones = _word_operation(lambda builder, word: builder.ctpop(word))
# Of a word that is not 0.
trailing_zeros = _word_operation(lambda builder, word: builder.cttz(word, ir.IntType(1)(1)))


@kernel
def _load_word(code: Bytes, offset: int) -> int:
    """Return the 8 bytes at the offset, with zeros for those past the end."""
    if offset + 8 <= code.size:
        # By its address: a view of the array takes ten times as long.
        return load_word(np.int64(code.ctypes.data) + offset)
    word = 0
    for byte in range(max(0, code.size - offset)):
        word |= np.int64(code[offset + byte]) << (8 * byte)
    return word


@kernel
def _store_word(code: Bytes, offset: int, word: int) -> None:
    """Write 8 bytes at the offset, but for those past the end."""
    if offset + 8 <= code.size:
        store_word(np.int64(code.ctypes.data) + offset, word)
    else:
        for byte in range(code.size - offset):
            code[offset + byte] = (word >> (8 * byte)) & 0xFF


@kernel
def _encode_low(positions: Words, low: Bytes, low_bits: int, start: int, end: int) -> None:
    """Write the low bits of positions start to end - 1; start is a multiple of 64."""
    mask = (1 << low_bits) - 1
    offset = start // 8 * low_bits
    word = filled = 0
    for position in positions[start:end]:
        bits = np.int64(position) & mask
        word |= bits << filled
        filled += low_bits
        if filled >= 64:
            _store_word(low, offset, word)
            offset += 8
            filled -= 64
            word = bits >> (low_bits - filled)
    if filled > 0:
        _store_word(low, offset, word)


@kernel
def _encode_high(positions: Words, high: Bytes, low_bits: int, start: int, end: int) -> None:
    """Write the words from that of position start up to that of position end, or to the end."""
    first = start
    at = 0
    if start > 0:
        at = ((np.int64(positions[start]) >> low_bits) + start) >> 6
        while ((np.int64(positions[first - 1]) >> low_bits) + first - 1) >> 6 == at:
            first -= 1
    last = (high.size + 7) // 8
    if end < positions.size:
        last = ((np.int64(positions[end]) >> low_bits) + end) >> 6
    word = 0
    for index in range(first, end):
        bit = (np.int64(positions[np.uint64(index)]) >> low_bits) + index
        while at < bit >> 6:
            _store_word(high, 8 * at, word)
            word = 0
            at += 1
        word |= 1 << (bit & 63)
    while at < last:
        _store_word(high, 8 * at, word)
        word = 0
        at += 1


@kernel
def encode(positions: Words, form: Code, code: Bytes, first: int, last: int) -> None:
    """Write what chunks first to last - 1 of the positions add to the code."""
    start, end = first * CHUNK, min(last * CHUNK, positions.size)
    _encode_low(positions, code[: form.low_bytes], form.low_bits, start, end)
    _encode_high(positions, code[form.low_bytes :], form.low_bits, start, end)


@kernel
def find(form: Code, code: Bytes, place: int) -> tuple[int, int]:
    """Find where to begin decoding to get every position from `place` on: its index, its bit."""
    zeros = place >> form.low_bits
    high = code[form.low_bytes :]
    offset = before = 0
    word = _load_word(high, 0)
    while offset < high.size and before + 64 - count_ones(word) < zeros:
        before += 64 - count_ones(word)
        offset += 8
        word = _load_word(high, offset)
    bit = 8 * offset
    while before < zeros and bit < 8 * high.size:
        before += 1 - ((word >> (bit & 63)) & 1)
        bit += 1
    return bit - before, bit


@kernel
def decode(form: Code, code: Bytes, index: int, bit: int, positions: Ints) -> tuple[int, int]:
    """Decode the positions from the index and its bit on, as many as there are and fit.

    Returns their number and the bit where to go on. Whatever the bytes are, none but the code's
    own are read; but positions that no encoder wrote may lie outside the places, in any order.
    """
    low, high = code[: form.low_bytes], code[form.low_bytes :]
    mask = (1 << form.low_bits) - 1
    limit = min(positions.size, form.num_positions - index)
    offset = bit // 64 * 8
    word = _load_word(high, offset) & (-1 << (bit & 63))
    for found in range(limit):
        while word == 0:
            offset += 8
            if offset >= high.size:
                return found, bit
            word = _load_word(high, offset)
        bit = 8 * offset + trailing_zeros(word)
        word &= word - 1
        low_bit = index * form.low_bits
        low_word = _load_word(low, low_bit >> 3) >> (low_bit & 7)
        positions[found] = ((bit - index) << form.low_bits) | (low_word & mask)
        index += 1
        bit += 1
    return max(0, limit), bit


@kernel
def accumulate(
    targets: Ints,
    payloads: Ints,
    weights: Floats,
    form: Code,
    segments: Ints,
    first: int,
    last: int,
) -> None:
    """targets[k] += weights[k, m] * message m, in the entries of segments first to last - 1.

    A message holds the values and then the code of their positions in the vector.
    """
    if first == last:
        return
    begin = segments[first, 1] + segments[first, 2]
    end = segments[last - 1, 1] + segments[last - 1, 2] + segments[last - 1, 3]
    block = np.empty(BLOCK, dtype=np.int64)
    for m in range(payloads.size):
        values = floats_at(payloads[m], form.num_positions)
        code = bytes_at(payloads[m] + 4 * form.num_positions, form.low_bytes + form.high_bytes)
        index, bit = find(form, code, begin)
        more = True
        while more:
            number, bit = decode(form, code, index, bit, block)
            for k in range(targets.size):
                weight = weights[k, m]
                if weight != 0:
                    target = floats_at(targets[k], end)
                    for i in range(number):
                        prefetch(targets[k] + 4 * block[min(i + AHEAD, number - 1)])
                        place = block[i]
                        if begin <= place < end:
                            # Unsigned: a signed index might count from the end.
                            target[np.uint64(place)] += weight * values[np.uint64(index + i)]
            index += number
            more = number == BLOCK and block[number - 1] < end
