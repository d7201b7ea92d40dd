"""Elias-Fano codes against the definition, bit by bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pcode.compression.kernels.cpu.elias_fano import CHUNK, Code, code_of, decode, encode, find

Bytes = NDArray[np.uint8]
CANARY = 0xA5


def packed(bits: list[int]) -> bytes:
    """Eight bits a byte, lowest first, ending in zeros."""
    padded = bits + [0] * (-len(bits) % 8)
    return bytes(
        sum(bit << place for place, bit in enumerate(padded[start : start + 8]))
        for start in range(0, len(padded), 8)
    )


def plain_encode(positions: list[int], num_places: int) -> bytes:
    if not positions:
        return b""
    low_bits = max(0, math.floor(math.log2(num_places / len(positions))))
    low = [(position >> place) & 1 for position in positions for place in range(low_bits)]
    high, counted = [], 0
    for position in positions:
        high += [0] * ((position >> low_bits) - counted) + [1]
        counted = position >> low_bits
    high += [0] * (((num_places - 1) >> low_bits) - counted)
    return packed(low) + packed(high)


def plain_decode(data: bytes, num_positions: int, num_places: int) -> list[int]:
    if num_positions == 0:
        return []
    low_bits = max(0, math.floor(math.log2(num_places / num_positions)))
    bits = [(byte >> place) & 1 for byte in data for place in range(8)]
    high = bits[(num_positions * low_bits + 7) // 8 * 8 :]
    positions: list[int] = []
    zeros = 0
    for bit in high:
        if bit:
            first = len(positions) * low_bits
            low = sum(bits[first + place] << place for place in range(low_bits))
            positions.append((zeros << low_bits) + low)
        else:
            zeros += 1
    return positions


def encoded(positions: list[int], num_places: int) -> tuple[Code, Bytes]:
    """The code, at an odd address, chunk by chunk from the last."""
    code = code_of(len(positions), num_places)
    buffer = np.full(code.num_bytes + 17, CANARY, dtype=np.uint8)
    data = buffer[1 : 1 + code.num_bytes]
    for chunk in reversed(range(code.num_chunks)):
        encode(np.array(positions, dtype=np.uint32), code, data, chunk, chunk + 1)
    assert buffer[0] == CANARY
    assert (buffer[1 + code.num_bytes :] == CANARY).all()
    return code, data


def decoded(code: Code, data: Bytes, place: int = 0, block: int = 7) -> list[int]:
    """What is decoded from the first position that `find` gives on, block by block."""
    positions = np.empty(block, dtype=np.int64)
    index, bit = find(code, data, place)
    found: list[int] = []
    number = block
    while number == block:
        number, bit = decode(code, data, index + len(found), bit, positions)
        found += positions[:number].tolist()
    return found


@st.composite
def drawn_positions(draw: st.DrawFn) -> tuple[list[int], int]:
    num_places = draw(st.sampled_from([1, 2, 31, 64, 65, 1000, 2**20, 2**32]))
    positions = draw(st.sets(st.integers(0, num_places - 1), max_size=min(num_places, 200)))
    return sorted(positions), num_places


@given(drawn_positions())
@example(([0], 1))
@example((list(range(500)), 500))
@example((list(range(500)), 999))
@example((list(range(500)), 1000))
@example(([2**32 - 1], 2**32))
def test_code_is_the_definition_bit_by_bit(drawn: tuple[list[int], int]) -> None:
    positions, num_places = drawn
    code, data = encoded(positions, num_places)
    assert data.tobytes() == plain_encode(positions, num_places)
    assert plain_decode(data.tobytes(), len(positions), num_places) == positions
    assert decoded(code, data) == positions
    if positions:
        bits_each = 2 + math.log2(num_places / len(positions))
        assert code.num_bytes <= len(positions) * bits_each / 8 + 2


@given(drawn_positions(), st.integers(0, 2**32))
def test_find_leaves_out_only_what_lies_before(drawn: tuple[list[int], int], place: int) -> None:
    positions, num_places = drawn
    place %= num_places
    code, data = encoded(positions, num_places)
    found = decoded(code, data, place)
    assert found == positions[len(positions) - len(found) :]
    assert {each for each in positions if each >= place} <= set(found)
    # What lies before shares its high bits, so that nothing is decoded in vain.
    assert all(each >> code.low_bits >= place >> code.low_bits for each in found)


@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_chunks_join(step: int) -> None:
    generator = np.random.default_rng(step)
    num_places = (2 * CHUNK + 77) * step
    positions = np.sort(generator.choice(num_places, 2 * CHUNK + 77, replace=False)).tolist()
    code, data = encoded(positions, num_places)
    assert data.tobytes() == plain_encode(positions, num_places)
    assert decoded(code, data, block=4096) == positions


@given(st.binary(min_size=200, max_size=200), st.integers(0, 299), st.sampled_from([300, 5000]))
def test_any_bytes_decode_to_no_more_positions_than_fit(
    drawn: bytes, place: int, num_places: int
) -> None:
    code = code_of(150, num_places)
    data = np.frombuffer(drawn, dtype=np.uint8)[: code.num_bytes].copy()
    assert len(decoded(code, data, place)) <= 150
    data[:] = 0xFF
    assert len(decoded(code, data)) == 150
    data[:] = 0
    assert decoded(code, data) == []
