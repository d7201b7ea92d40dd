"""CPU kernels of the quantizing compressor; `pcode.compression.qsgd` describes the message."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pcode.compression.kernels.lanes import (
    FLOATS_BYTES,
    LANES,
    MASK_BYTES,
    absolute,
    add,
    add_ints,
    broadcast,
    broadcast_int,
    is_below_zero,
    kernel,
    lane_numbers,
    load,
    load_first,
    load_float,
    load_mask,
    load_mask_first,
    multiply,
    negate,
    select,
    store,
    store_first,
    store_mask,
    store_mask_first,
    subtract,
    total,
    zero_doubles,
)
from pcode.compression.kernels.quantized import (
    add_squares,
    draw,
    load_packed,
    load_packed_first,
    round_randomly,
    store_packed,
    store_packed_first,
    to_floats,
)

# Entries of a target that stay in the first-level cache (16 KiB) while all messages are added.
BLOCK = 4096


@kernel
def sum_squares(
    value: int,
    reference: int,
    reference_stride: int,
    sums: NDArray[np.float64],
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """Sum the squares of value - reference, segment by segment, in float64.

    Args:
        value, reference: addresses.
        reference_stride: bytes from one entry of the reference to the next; 0 where the reference
            is one group of lanes that stands for all.
        sums: set for each segment.
        segments: as `segments_of` gives them; first..last - 1 are worked on.
    """
    for segment in range(first, last):
        _, offset, start, size = segments[segment]
        from_ = value + 4 * (offset + start)
        minus = reference + reference_stride * (offset + start)
        squares = zero_doubles()
        for _ in range(size // LANES):
            squares = add_squares(squares, subtract(load(from_), load(minus)))
            from_ += FLOATS_BYTES
            minus += LANES * reference_stride
        rest = 4 * (size % LANES)
        if rest > 0:
            difference = subtract(load_first(from_, rest), load_first(minus, rest))
            squares = add_squares(squares, difference)
        sums[segment] = total(squares)


@kernel
def encode(
    value: int,
    reference: int,
    reference_stride: int,
    payload: int,
    bits: int,
    places: NDArray[np.int64],
    factors: NDArray[np.float32],
    words: NDArray[np.uint32],
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """Write signs and magnitudes of value - reference, reading both once.

    Args:
        value, reference, payload: addresses.
        reference_stride: bytes from one entry of the reference to the next; 0 where the
            reference is one group of lanes that stands for all.
        bits: of a magnitude: 1, 2, 4, 8 or 16.
        places: where signs and magnitudes of each tensor begin in the payload, in bytes.
        factors: two for each tensor; |v| times the first and then the second is what is
            rounded to an integer.
        words: two random words for each tensor.
        segments: as `segments_of` gives them; first..last - 1 are worked on.
    """
    top = broadcast_int(np.int32((1 << bits) - 1))
    for segment in range(first, last):
        tensor, offset, start, size = segments[segment]
        from_ = value + 4 * (offset + start)
        minus = reference + reference_stride * (offset + start)
        signs = payload + places[tensor, 0] + start // 8
        magnitudes = payload + places[tensor, 1] + start * bits // 8
        power, scale = broadcast(factors[tensor, 0]), broadcast(factors[tensor, 1])
        before = broadcast_int(np.int32(words[tensor, 0]))
        between = broadcast_int(np.int32(words[tensor, 1]))
        counters = add_ints(lane_numbers(), broadcast_int(np.int32(start)))
        step = broadcast_int(np.int32(LANES))
        for _ in range(size // LANES):
            difference = subtract(load(from_), load(minus))
            scaled = multiply(multiply(absolute(difference), power), scale)
            draws = draw(counters, before, between)
            store_mask(signs, is_below_zero(difference))
            store_packed(bits, magnitudes, round_randomly(scaled, draws, top))
            counters = add_ints(counters, step)
            from_ += FLOATS_BYTES
            minus += LANES * reference_stride
            signs += MASK_BYTES
            magnitudes += LANES * bits // 8
        rest = size % LANES
        if rest > 0:
            difference = subtract(load_first(from_, 4 * rest), load_first(minus, 4 * rest))
            scaled = multiply(multiply(absolute(difference), power), scale)
            rounded = round_randomly(scaled, draw(counters, before, between), top)
            store_mask_first(signs, (rest + 7) // 8, is_below_zero(difference))
            store_packed_first(bits, magnitudes, (rest * bits + 7) // 8, rounded)


@kernel
def _add_scaled(
    target: int,
    signs: int,
    magnitudes: int,
    bits: int,
    scale: np.float32,
    weight: np.float32,
    num_entries: int,
) -> None:
    """target += weight * (scale * magnitude), negative where the sign's bit is 1."""
    scales, weights = broadcast(scale), broadcast(weight)
    for _ in range(num_entries // LANES):
        decoded = multiply(weights, multiply(scales, to_floats(load_packed(bits, magnitudes))))
        signed = select(load_mask(signs), negate(decoded), decoded)
        store(target, add(load(target), signed))
        target += FLOATS_BYTES
        signs += MASK_BYTES
        magnitudes += LANES * bits // 8
    rest = num_entries % LANES
    if rest > 0:
        packed = load_packed_first(bits, magnitudes, (rest * bits + 7) // 8)
        decoded = multiply(weights, multiply(scales, to_floats(packed)))
        mask = load_mask_first(signs, (rest + 7) // 8)
        signed = select(mask, negate(decoded), decoded)
        store_first(target, 4 * rest, add(load_first(target, 4 * rest), signed))


@kernel
def accumulate(
    targets: NDArray[np.int64],
    payloads: NDArray[np.int64],
    weights: NDArray[np.float32],
    bits: int,
    places: NDArray[np.int64],
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """targets[k] += weights[k, m] * message m, in one pass over the memory of the targets.

    Args:
        targets, payloads: addresses.
        weights: targets x messages; where it is 0 the message is left out.
        bits: of a magnitude: 1, 2, 4, 8 or 16.
        places: where signs and magnitudes of each tensor begin in a payload, in bytes.
        segments: as `segments_of` gives them; first..last - 1 are worked on.
    """
    for segment in range(first, last):
        tensor, offset, begin, size = segments[segment]
        for start in range(begin, begin + size, BLOCK):
            num_entries = min(BLOCK, begin + size - start)
            for k in range(targets.size):
                for m in range(payloads.size):
                    if weights[k, m] != 0:
                        _add_scaled(
                            targets[k] + 4 * (offset + start),
                            payloads[m] + places[tensor, 0] + start // 8,
                            payloads[m] + places[tensor, 1] + start * bits // 8,
                            bits,
                            load_float(payloads[m] + 4 * tensor),
                            weights[k, m],
                            num_entries,
                        )
