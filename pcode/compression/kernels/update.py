"""CPU kernel of the local step and the mixing; `pcode.compression.update` describes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcode.compression.kernels.lanes import (
    FLOATS_BYTES,
    LANES,
    add,
    broadcast,
    kernel,
    load,
    load_first,
    multiply,
    store,
    store_first,
    subtract,
)

# Columns of `coefficients`.
LR, WEIGHT_DECAY, MOMENTUM, NESTEROV, GAMMA = range(5)


@kernel
def step_lanes(
    value: Any,  # FLOATS
    gradient: Any,
    velocity: Any,
    mixed: Any,
    lr: Any,
    decay: Any,
    momentum: Any,
    gamma: Any,
    nesterov: bool,
) -> tuple[Any, Any]:
    """Sixteen entries of x and of buf after `update_block`, from those of x, g, buf and z."""
    direction = add(gradient, multiply(decay, value))
    velocity = add(multiply(momentum, velocity), direction)
    step = add(direction, multiply(momentum, velocity)) if nesterov else velocity
    return add(subtract(value, multiply(lr, step)), multiply(gamma, mixed)), velocity


@kernel
def update_block(
    x: int,
    gradient: int,
    buf: int,
    z: int,
    coefficients: NDArray[np.float32],
    num_entries: int,
) -> None:
    """d = g + wd x ; buf = m buf + d ; nesterov: d += m buf, else d = buf ; x += gamma z - lr d.

    Args:
        x, gradient, buf, z: addresses.
        coefficients: of the tensor, see above.
        num_entries: of the block.
    """
    lr, decay = broadcast(coefficients[LR]), broadcast(coefficients[WEIGHT_DECAY])
    momentum, gamma = broadcast(coefficients[MOMENTUM]), broadcast(coefficients[GAMMA])
    nesterov = coefficients[NESTEROV] != 0
    for _ in range(num_entries // LANES):
        value, velocity = step_lanes(
            load(x), load(gradient), load(buf), load(z), lr, decay, momentum, gamma, nesterov
        )
        store(buf, velocity)
        store(x, value)
        x += FLOATS_BYTES
        gradient += FLOATS_BYTES
        buf += FLOATS_BYTES
        z += FLOATS_BYTES
    rest = 4 * (num_entries % LANES)
    if rest > 0:
        value, velocity = step_lanes(
            load_first(x, rest),
            load_first(gradient, rest),
            load_first(buf, rest),
            load_first(z, rest),
            lr,
            decay,
            momentum,
            gamma,
            nesterov,
        )
        store_first(buf, rest, velocity)
        store_first(x, rest, value)


@kernel
def update(
    x: int,
    gradients: NDArray[np.int64],
    buf: int,
    z: int,
    coefficients: NDArray[np.float32],
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """`update_block` for whole segments.

    Args:
        x, buf, z: addresses of the vectors.
        gradients: address of each tensor's gradient.
        coefficients: a row for each tensor.
        segments: as `segments_of` gives them; first..last - 1 are worked on.
    """
    for segment in range(first, last):
        tensor, offset, start, size = segments[segment]
        place = 4 * (offset + start)
        update_block(
            x + place,
            gradients[tensor] + 4 * start,
            buf + place,
            z + place,
            coefficients[tensor],
            size,
        )
