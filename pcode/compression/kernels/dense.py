"""CPU kernels for messages that hold float32 entries."""

from __future__ import annotations

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

# Entries of a target that stay in the first-level cache (16 KiB) while all messages are added.
BLOCK = 4096


@kernel
def difference(
    value: int, reference: int, reference_stride: int, result: int, num_entries: int
) -> None:
    """result = value - reference.

    Args:
        value, reference, result: addresses.
        reference_stride: bytes from one entry of the reference to the next; 0 where the reference
            is one group of lanes that stands for all.
        num_entries: entries of each vector.
    """
    for _ in range(num_entries // LANES):
        store(result, subtract(load(value), load(reference)))
        value += FLOATS_BYTES
        reference += LANES * reference_stride
        result += FLOATS_BYTES
    rest = 4 * (num_entries % LANES)
    if rest > 0:
        store_first(result, rest, subtract(load_first(value, rest), load_first(reference, rest)))


@kernel
def _add_scaled(target: int, addend: int, weight: np.float32, num_entries: int) -> None:
    """target += weight * addend; the product is rounded before it is added."""
    weights = broadcast(weight)
    for _ in range(num_entries // LANES):
        store(target, add(load(target), multiply(weights, load(addend))))
        target += FLOATS_BYTES
        addend += FLOATS_BYTES
    rest = 4 * (num_entries % LANES)
    if rest > 0:
        scaled = multiply(weights, load_first(addend, rest))
        store_first(target, rest, add(load_first(target, rest), scaled))


@kernel
def accumulate(
    targets: NDArray[np.int64],
    payloads: NDArray[np.int64],
    weights: NDArray[np.float32],
    num_entries: int,
) -> None:
    """targets[k] += weights[k, m] * payload m, in one pass over the memory of the targets.

    Args:
        targets, payloads: addresses of num_entries float32 each.
        weights: targets x messages; where it is 0 the message is left out.
        num_entries: entries of each vector.
    """
    for start in range(0, num_entries, BLOCK):
        size = min(BLOCK, num_entries - start)
        for k in range(targets.size):
            for m in range(payloads.size):
                if weights[k, m] != 0:
                    _add_scaled(
                        targets[k] + 4 * start, payloads[m] + 4 * start, weights[k, m], size
                    )
