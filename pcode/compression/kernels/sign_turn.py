"""CPU kernel of the sign compressor's one pass; `pcode.compression.update` describes it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcode.compression.kernels.lanes import (
    LANES,
    add_magnitudes,
    broadcast,
    is_below_zero,
    kernel,
    load,
    store,
    store_mask,
    subtract,
    total,
    zero_doubles,
)
from pcode.compression.kernels.sign import (
    GROUP,
    accumulate_block,
    add_all,
    encode_block,
    scale,
)
from pcode.compression.kernels.update import (
    GAMMA,
    LR,
    MOMENTUM,
    NESTEROV,
    WEIGHT_DECAY,
    step_lanes,
    update_block,
)


@kernel
def _turn_block(
    targets: NDArray[np.int64],
    payloads: NDArray[np.int64],
    weights: NDArray[np.float32],
    magnitudes: NDArray[np.float32],
    x: int,
    gradient: int,
    buf: int,
    z: int,
    coefficients: NDArray[np.float32],
    minus: int,
    stride: int,
    bits: int,
    offset: int,
    place: int,
    num_entries: int,
) -> Any:
    """`turn` for a multiple of GROUP entries of a tensor; magnitudes of x - minus by lanes.

    Args:
        targets, payloads: addresses of the whole vectors and messages.
        magnitudes: as `scale` sets them.
        x, gradient, buf, z, minus, bits: addresses of the first entry's.
        coefficients: of the tensor.
        offset, place: where the entries begin in a vector, and their bits in a message, in bytes.
    """
    lr, decay = broadcast(coefficients[LR]), broadcast(coefficients[WEIGHT_DECAY])
    momentum, gamma = broadcast(coefficients[MOMENTUM]), broadcast(coefficients[GAMMA])
    nesterov = coefficients[NESTEROV] != 0
    sums = zero_doubles()
    for start in range(0, num_entries, GROUP):
        for k in range(targets.size):
            entries = targets[k] + offset + 4 * start
            add_all(entries, payloads, weights, magnitudes, k, place + start // 8)
        for entry in range(start, start + GROUP, LANES):
            at = 4 * entry
            value, velocity = step_lanes(
                load(x + at),
                load(gradient + at),
                load(buf + at),
                load(z + at),
                lr,
                decay,
                momentum,
                gamma,
                nesterov,
            )
            store(buf + at, velocity)
            store(x + at, value)
            difference = subtract(value, load(minus + stride * entry))
            store_mask(bits + entry // 8, is_below_zero(difference))
            sums = add_magnitudes(sums, difference)
    return sums


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
    """`accumulate`, then `update`, then `encode` of x, in one pass over memory, most in registers.

    Args: those of the three. The message that is written is none of those that are read.
    """
    magnitudes = np.empty(weights.shape, np.float32)
    for segment in range(first, last):
        tensor, offset, begin, size = segments[segment]
        scale(payloads, weights, tensor, magnitudes)
        rest = size % GROUP
        place, bits = 4 * (offset + begin), places[tensor] + begin // 8
        found = _turn_block(
            targets,
            payloads,
            weights,
            magnitudes,
            x + place,
            gradients[tensor] + 4 * begin,
            buf + place,
            z + place,
            coefficients[tensor],
            reference + reference_stride * (offset + begin),
            reference_stride,
            payload + bits,
            place,
            bits,
            size - rest,
        )
        if rest > 0:
            start = begin + size - rest
            place, bits = 4 * (offset + start), places[tensor] + start // 8
            accumulate_block(targets, payloads, weights, magnitudes, place, bits, rest)
            update_block(
                x + place,
                gradients[tensor] + 4 * start,
                buf + place,
                z + place,
                coefficients[tensor],
                rest,
            )
            found = encode_block(
                x + place,
                reference + reference_stride * (offset + start),
                reference_stride,
                payload + bits,
                rest,
                found,
            )
        sums[segment] = total(found)
