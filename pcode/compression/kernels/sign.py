"""CPU kernels of the sign compressor; `pcode.compression.sign` describes the message."""

from __future__ import annotations

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

# Entries of a target that stay in the first-level cache (16 KiB) while all messages are added.
BLOCK = 4096


@kernel
def encode(
    value: int, reference: int, reference_stride: int, payload: int, sizes: NDArray[np.int64]
) -> None:
    """Write the message of value - reference, reading both once.

    Args:
        value, reference, payload: addresses.
        reference_stride: bytes from one entry of the reference to the next; 0 where the reference
            is one group of lanes that stands for all.
        sizes: entries of each tensor.
    """
    norm = payload
    bits = payload + 4 * sizes.size
    for size in sizes:
        sums = zero_doubles()
        for _ in range(size // LANES):
            difference = subtract(load(value), load(reference))
            store_mask(bits, is_below_zero(difference))
            sums = add_magnitudes(sums, difference)
            value += FLOATS_BYTES
            reference += LANES * reference_stride
            bits += MASK_BYTES
        rest = size % LANES
        if rest > 0:
            difference = subtract(load_first(value, 4 * rest), load_first(reference, 4 * rest))
            store_mask_first(bits, (rest + 7) // 8, is_below_zero(difference))
            sums = add_magnitudes(sums, difference)
            value += 4 * rest
            reference += rest * reference_stride
            bits += (rest + 7) // 8
        store_float(norm, np.float32(total(sums) / max(size, 1)))
        norm += 4


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
def accumulate(
    targets: NDArray[np.int64],
    payloads: NDArray[np.int64],
    weights: NDArray[np.float32],
    sizes: NDArray[np.int64],
) -> None:
    """targets[k] += weights[k, m] * message m, in one pass over the memory of the targets.

    Args:
        targets, payloads: addresses.
        weights: targets x messages; where it is 0 the message is left out.
        sizes: entries of each tensor.
    """
    first = 0
    bits = 4 * sizes.size
    for tensor in range(sizes.size):
        size = sizes[tensor]
        for start in range(0, size, BLOCK):
            num_entries = min(BLOCK, size - start)
            for k in range(targets.size):
                for m in range(payloads.size):
                    if weights[k, m] != 0:
                        _add_signs(
                            targets[k] + 4 * (first + start),
                            payloads[m] + bits + start // 8,
                            weights[k, m] * load_float(payloads[m] + 4 * tensor),
                            num_entries,
                        )
        first += size
        bits += (size + 7) // 8
