"""CPU kernels of the quantizing compressor, which describes the message."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pcode.compression.base import Message
from pcode.compression.draws import words_of
from pcode.compression.kernels.cpu.blocks import (
    LANES,
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
    addresses_of,
    bytes_at,
    floats_at,
    reference_of,
)
from pcode.compression.kernels.cpu.parallel import run_segments, sum_segments
from pcode.compression.qsgd import LARGEST_NORM, QSGD, errors_of, places_of
from pcode.utils.layout import Layout


@kernel
def _sum_squares(
    value: NDArray[np.float32],
    reference: NDArray[np.float32],
    stride: int,
    sums: NDArray[np.float64],
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """Sum the squares of value - reference, segment by segment, in float64."""
    room, lanes = np.empty(BLOCK, np.float32), np.empty(LANES)
    for segment in range(first, last):
        _, offset, start, size = segments[segment]
        end = offset + start + size
        lanes[:] = 0
        for entry in range(offset + start, end, BLOCK):
            num_entries = min(BLOCK, end - entry)
            minus = reference[stride * entry : stride * entry + num_entries]
            add_squares(lanes, subtract(value[entry : entry + num_entries], minus, room))
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
    value: NDArray[np.float32],
    reference: NDArray[np.float32],
    start: int,
    factors: NDArray[np.float32],
    words: NDArray[np.uint32],
    most: np.int32,
    difference: NDArray[np.float32],
    levels: NDArray[np.int32],
) -> None:
    """Set difference to value - reference, and levels to what is sent of its magnitudes.

    That is |v| times the factors, rounded down, or up with the probability of its fraction, and at
    most `most`. Whole part and fraction are apart, so that no sum is rounded.

    Args:
        start: the number of the first entry in its tensor.
        factors, words: two of each, of the tensor.
    """
    power, scale, before, between = factors[0], factors[1], words[0], words[1]
    for i in range(value.size):
        entry = value[i] - reference[i]
        difference[i] = entry
        scaled = abs(entry) * power * scale
        whole = np.int32(scaled)
        limit = np.int32((scaled - np.float32(whole)) * np.float32(2.0**31))
        up = _draw(np.uint32(start + i), before, between) < limit
        levels[i] = min(np.int32(whole + np.int32(up)), most)
    for i in range(value.size, -(-value.size // 8) * 8):
        difference[i] = levels[i] = 0


@kernel
def _pack_by(levels: NDArray[np.int32], packed: NDArray[np.uint8], bits: int, a_byte: int) -> None:
    for byte in range(packed.size):
        together = np.uint8(0)
        for number in range(a_byte):
            together |= np.uint8(levels[a_byte * byte + number] << (bits * number))
        packed[byte] = together


@kernel
def _pack(bits: int, levels: NDArray[np.int32], packed: NDArray[np.uint8]) -> None:
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
def _unpack_by(
    packed: NDArray[np.uint8], levels: NDArray[np.uint16], bits: int, a_byte: int
) -> None:
    for byte in range(packed.size):
        for number in range(a_byte):
            levels[a_byte * byte + number] = (packed[byte] >> (bits * number)) & ((1 << bits) - 1)


@kernel
def _unpack(bits: int, packed: NDArray[np.uint8], levels: NDArray[np.uint16]) -> None:
    """The reverse of `_pack`."""
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
    value: NDArray[np.float32],
    reference: NDArray[np.float32],
    stride: int,
    payload: NDArray[np.uint8],
    bits: int,
    places: NDArray[np.int64],
    factors: NDArray[np.float32],
    words: NDArray[np.uint32],
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """Write signs and magnitudes of value - reference, reading both once."""
    room, levels = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int32)
    most = np.int32((1 << bits) - 1)
    for segment in range(first, last):
        tensor, offset, start, size = segments[segment]
        for begin in range(start, start + size, BLOCK):
            num_entries = min(BLOCK, start + size - begin)
            entry = offset + begin
            _round(
                value[entry : entry + num_entries],
                reference[stride * entry : stride * entry + num_entries],
                begin,
                factors[tensor],
                words[tensor],
                most,
                room,
                levels,
            )
            signs = places[tensor, 0] + begin // 8
            pack_signs(room, payload[signs : signs + (num_entries + 7) // 8])
            magnitudes = places[tensor, 1] + begin * bits // 8
            _pack(bits, levels, payload[magnitudes : magnitudes + (num_entries * bits + 7) // 8])


@kernel
def _decode(
    message: int,
    bits: int,
    tensor: int,
    signs: int,
    magnitudes: int,
    flags: NDArray[np.uint8],
    levels: NDArray[np.uint16],
    decoded: NDArray[np.float32],
) -> None:
    """Decode as many entries of a tensor as `decoded` has.

    Args:
        message: its address.
        signs, magnitudes: where the entries' begin in the message.
        flags, levels: room for BLOCK.
    """
    size, scale = decoded.size, floats_at(message + 4 * tensor, 1)[0]
    unpack_bits(bytes_at(message + signs, (size + 7) // 8), flags)
    _unpack(bits, bytes_at(message + magnitudes, (size * bits + 7) // 8), levels)
    for i in range(size):
        entry = scale * np.float32(levels[i])
        decoded[i] = -entry if flags[i] else entry


@kernel
def _accumulate(
    targets: NDArray[np.int64],
    payloads: NDArray[np.int64],
    weights: NDArray[np.float32],
    bits: int,
    places: NDArray[np.int64],
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """targets[k] += weights[k, m] * message m, in one pass over the memory of the targets."""
    flags, levels = np.empty(BLOCK, np.uint8), np.empty(BLOCK, np.uint16)
    room = np.empty(BLOCK, np.float32)
    for segment in range(first, last):
        tensor, offset, start, size = segments[segment]
        for begin in range(start, start + size, BLOCK):
            decoded = room[: min(BLOCK, start + size - begin)]
            signs, magnitudes = (
                places[tensor, 0] + begin // 8,
                places[tensor, 1] + begin * bits // 8,
            )
            for m in range(payloads.size):
                if not weights[:, m].any():
                    continue
                _decode(payloads[m], bits, tensor, signs, magnitudes, flags, levels, decoded)
                for k in range(targets.size):
                    if weights[k, m] != 0:
                        target = floats_at(targets[k] + 4 * (offset + begin), decoded.size)
                        add_scaled(target, decoded, weights[k, m])


def _scales(compressor: QSGD, layout: Layout, norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the integers of each tensor are multiplied by."""
    scales = norms / ((1 << compressor.quantize_level) - 1)
    if compressor.is_biased:
        scales /= 1 + errors_of(layout.sizes, compressor.quantize_level)
    return scales


def _factors(level: int, norms: NDArray[np.float64]) -> NDArray[np.float32]:
    """Two factors whose product is s / ||v||_2, num_tensors x 2.

    The first is a power of two that brings the norm near 1, as s / ||v||_2 itself may be too
    large or too small for float32.
    """
    powers = np.ldexp(1.0, np.clip(-np.frexp(norms)[1], -126, 127))
    s = (1 << level) - 1
    rest = np.divide(s, norms * powers, out=np.zeros_like(norms), where=norms > 0)
    return np.stack([powers, rest], axis=1).astype(np.float32)


def encode(
    compressor: QSGD,
    layout: Layout,
    value: torch.Tensor,
    reference: torch.Tensor | None,
    message: Message,
) -> None:
    level, payload = compressor.quantize_level, message.payload.numpy()
    inputs = value.detach().numpy(), *reference_of(reference)
    squares = sum_segments(_sum_squares, layout, *inputs)
    norms = np.minimum(np.sqrt(squares), LARGEST_NORM)
    payload[: 4 * norms.size].view("<f4")[:] = _scales(compressor, layout, norms)
    run_segments(
        _encode,
        layout.sizes,
        *inputs,
        payload,
        level,
        places_of(layout.sizes, level),
        _factors(level, norms),
        words_of(message.key, layout.num_tensors, 2),
    )


def accumulate(
    compressor: QSGD,
    layout: Layout,
    messages: Sequence[Message],
    targets: Sequence[torch.Tensor],
    weights: NDArray[np.float32],
) -> None:
    run_segments(
        _accumulate,
        layout.sizes,
        addresses_of(targets),
        addresses_of(message.payload for message in messages),
        weights,
        compressor.quantize_level,
        places_of(layout.sizes, compressor.quantize_level),
    )
