"""CPU kernels of the sign compressor; `pcode.compression.sign` describes the message."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcode.compression.kernels.lanes import (
    FLOATS_BYTES,
    LANES,
    MASK_BYTES,
    add,
    add_magnitudes,
    broadcast,
    is_below_zero,
    kernel,
    load,
    load_first,
    load_float,
    load_mask,
    load_mask_first,
    negate,
    select,
    store,
    store_first,
    store_float,
    store_mask,
    store_mask_first,
    subtract,
    total,
    zero_doubles,
)
from pcode.compression.kernels.update import update_block

# Entries of a target that stay in the first-level cache (16 KiB) while all messages are added.
BLOCK = 4096
# Entries of five vectors that do.
TURN_BLOCK = 1024


@kernel
def _encode_block(
    value: int,
    minus: int,
    stride: int,
    bits: int,
    num_entries: int,
    magnitudes: Any,  # DOUBLES
) -> Any:
    """Write the bits of value - minus, reading both once; magnitudes, lane by lane, and theirs."""
    for _ in range(num_entries // LANES):
        difference = subtract(load(value), load(minus))
        store_mask(bits, is_below_zero(difference))
        magnitudes = add_magnitudes(magnitudes, difference)
        value += FLOATS_BYTES
        minus += LANES * stride
        bits += MASK_BYTES
    rest = num_entries % LANES
    if rest > 0:
        difference = subtract(load_first(value, 4 * rest), load_first(minus, 4 * rest))
        store_mask_first(bits, (rest + 7) // 8, is_below_zero(difference))
        magnitudes = add_magnitudes(magnitudes, difference)
    return magnitudes


@kernel
def encode(
    value: int,
    reference: int,
    reference_stride: int,
    payload: int,
    places: NDArray[np.int64],
    sums: NDArray[np.float64],
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """Write the bits of value - reference, reading both once, and sum magnitudes by segment.

    Args:
        value, reference, payload: addresses.
        reference_stride: bytes from one entry of the reference to the next; 0 where the reference
            is one group of lanes that stands for all.
        places: where the bits of each tensor begin in the payload, in bytes.
        sums: set to the sum of the magnitudes of each segment.
        segments: as `segments_of` gives them; first..last - 1 are worked on.
    """
    for segment in range(first, last):
        tensor, offset, start, size = segments[segment]
        magnitudes = _encode_block(
            value + 4 * (offset + start),
            reference + reference_stride * (offset + start),
            reference_stride,
            payload + places[tensor] + start // 8,
            size,
            zero_doubles(),
        )
        sums[segment] = total(magnitudes)


@kernel
def write_means(
    payload: int, sizes: NDArray[np.int64], segments: NDArray[np.int64], sums: NDArray[np.float64]
) -> None:
    """Write the mean magnitude of each tensor, the sums of its segments added in order.

    Args:
        payload: address.
        sizes: entries of each tensor.
        segments: as `segments_of` gives them.
        sums: of the magnitudes of each segment.
    """
    segment = 0
    for tensor in range(sizes.size):
        magnitudes = 0.0
        while segment < sums.size and segments[segment, 0] == tensor:
            magnitudes += sums[segment]
            segment += 1
        store_float(payload + 4 * tensor, np.float32(magnitudes / max(sizes[tensor], 1)))


@kernel
def _add_signs(target: int, bits: int, magnitude: np.float32, num_entries: int) -> None:
    """target += magnitude where the bit is 0, -magnitude where it is 1."""
    plus = broadcast(magnitude)
    minus = negate(plus)
    for _ in range(num_entries // LANES):
        store(target, add(load(target), select(load_mask(bits), minus, plus)))
        target += FLOATS_BYTES
        bits += MASK_BYTES
    rest = num_entries % LANES
    if rest > 0:
        signed = select(load_mask_first(bits, (rest + 7) // 8), minus, plus)
        store_first(target, 4 * rest, add(load_first(target, 4 * rest), signed))


@kernel
def _accumulate_block(
    targets: NDArray[np.int64],
    payloads: NDArray[np.int64],
    weights: NDArray[np.float32],
    places: NDArray[np.int64],
    tensor: int,
    offset: int,
    start: int,
    num_entries: int,
) -> None:
    """targets[k] += weights[k, m] * message m for a tensor's entries from `start` on."""
    for k in range(targets.size):
        for m in range(payloads.size):
            if weights[k, m] != 0:
                _add_signs(
                    targets[k] + 4 * (offset + start),
                    payloads[m] + places[tensor] + start // 8,
                    weights[k, m] * load_float(payloads[m] + 4 * tensor),
                    num_entries,
                )


@kernel
def accumulate(
    targets: NDArray[np.int64],
    payloads: NDArray[np.int64],
    weights: NDArray[np.float32],
    places: NDArray[np.int64],
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """targets[k] += weights[k, m] * message m, in one pass over the memory of the targets.

    Args:
        targets, payloads: addresses.
        weights: targets x messages; where it is 0 the message is left out.
        places: where the bits of each tensor begin in a payload, in bytes.
        segments: as `segments_of` gives them; first..last - 1 are worked on.
    """
    for segment in range(first, last):
        tensor, offset, begin, size = segments[segment]
        for start in range(begin, begin + size, BLOCK):
            num_entries = min(BLOCK, begin + size - start)
            _accumulate_block(
                targets, payloads, weights, places, tensor, offset, start, num_entries
            )


@kernel
def turn(
    targets: NDArray[np.int64],
    payloads: NDArray[np.int64],
    weights: NDArray[np.float32],
    x: int,
    gradients: NDArray[np.int64],
    buf: int,
    z: int,
    coefficients: NDArray[np.float32],
    reference: int,
    reference_stride: int,
    payload: int,
    places: NDArray[np.int64],
    sums: NDArray[np.float64],
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """`accumulate`, then `update`, then `encode` of x, block by block: memory is read once.

    Args: those of the three. The message that is written is none of those that are read.
    """
    for segment in range(first, last):
        tensor, offset, begin, size = segments[segment]
        magnitudes = zero_doubles()
        for start in range(begin, begin + size, TURN_BLOCK):
            num_entries = min(TURN_BLOCK, begin + size - start)
            _accumulate_block(
                targets, payloads, weights, places, tensor, offset, start, num_entries
            )
            place = 4 * (offset + start)
            update_block(
                x + place,
                gradients[tensor] + 4 * start,
                buf + place,
                z + place,
                coefficients[tensor],
                num_entries,
            )
            magnitudes = _encode_block(
                x + place,
                reference + reference_stride * (offset + start),
                reference_stride,
                payload + places[tensor] + start // 8,
                num_entries,
                magnitudes,
            )
        sums[segment] = total(magnitudes)
