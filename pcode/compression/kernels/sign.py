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

# Entries that are in registers while all messages are added: a message's magnitude is spread over
# the lanes once for all of them. One group of lanes at a time takes a tenth longer; block after
# block in the first-level cache, with a load and a store for every message, half as long again.
GROUP = 4 * LANES


@kernel
def encode_block(
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
        magnitudes = encode_block(
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
def add_all(
    target: int,
    payloads: NDArray[np.int64],
    weights: NDArray[np.float32],
    magnitudes: NDArray[np.float32],
    k: int,
    place: int,
) -> None:
    """Add message after message to GROUP entries, as `_add_signs`, in registers.

    Args:
        target: address of the entries, of target k.
        weights: targets x messages; where it is 0 the message is left out.
        magnitudes: the same, what each message adds or subtracts.
        place: where the entries' bits begin in a payload, in bytes.
    """
    a, b = load(target), load(target + FLOATS_BYTES)
    c, d = load(target + 2 * FLOATS_BYTES), load(target + 3 * FLOATS_BYTES)
    for m in range(payloads.size):
        if weights[k, m] != 0:
            plus = broadcast(magnitudes[k, m])
            minus = negate(plus)
            bits = payloads[m] + place
            a = add(a, select(load_mask(bits), minus, plus))
            b = add(b, select(load_mask(bits + MASK_BYTES), minus, plus))
            c = add(c, select(load_mask(bits + 2 * MASK_BYTES), minus, plus))
            d = add(d, select(load_mask(bits + 3 * MASK_BYTES), minus, plus))
    store(target, a)
    store(target + FLOATS_BYTES, b)
    store(target + 2 * FLOATS_BYTES, c)
    store(target + 3 * FLOATS_BYTES, d)


@kernel
def scale(
    payloads: NDArray[np.int64],
    weights: NDArray[np.float32],
    tensor: int,
    magnitudes: NDArray[np.float32],
) -> None:
    """Set magnitudes[k, m] to what message m adds to or subtracts from a tensor of target k."""
    for k in range(weights.shape[0]):
        for m in range(payloads.size):
            magnitudes[k, m] = weights[k, m] * load_float(payloads[m] + 4 * tensor)


@kernel
def accumulate_block(
    targets: NDArray[np.int64],
    payloads: NDArray[np.int64],
    weights: NDArray[np.float32],
    magnitudes: NDArray[np.float32],
    offset: int,
    place: int,
    num_entries: int,
) -> None:
    """`accumulate` for entries of a tensor.

    Args:
        magnitudes: as `scale` sets them.
        offset, place: where the entries begin in a vector, and their bits in a message, in bytes.
    """
    rest = num_entries % GROUP
    for start in range(0, num_entries - rest, GROUP):
        for k in range(targets.size):
            add_all(
                targets[k] + offset + 4 * start,
                payloads,
                weights,
                magnitudes,
                k,
                place + start // 8,
            )
    if rest > 0:
        start = num_entries - rest
        for k in range(targets.size):
            for m in range(payloads.size):
                if weights[k, m] != 0:
                    _add_signs(
                        targets[k] + offset + 4 * start,
                        payloads[m] + place + start // 8,
                        magnitudes[k, m],
                        rest,
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
    magnitudes = np.empty(weights.shape, np.float32)
    for segment in range(first, last):
        tensor, offset, start, size = segments[segment]
        scale(payloads, weights, tensor, magnitudes)
        accumulate_block(
            targets,
            payloads,
            weights,
            magnitudes,
            4 * (offset + start),
            places[tensor] + start // 8,
            size,
        )
