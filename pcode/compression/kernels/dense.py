"""CPU kernels for messages that hold float32 entries."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pcode.compression.kernels.lanes import (
    FLOATS_BYTES,
    LANES,
    add,
    add_magnitudes,
    broadcast,
    kernel,
    load,
    load_first,
    multiply,
    store,
    store_first,
    subtract,
    total,
    zero_doubles,
)

# Entries of a target that stay in the first-level cache (16 KiB) while all messages are added.
BLOCK = 4096


@kernel
def difference(
    value: int,
    reference: int,
    reference_stride: int,
    result: int,
    sums: NDArray[np.float64],
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """result = value - reference in segments first..last - 1.

    Args:
        value, reference, result: addresses.
        reference_stride: bytes from one entry of the reference to the next; 0 where the reference
            is one group of lanes that stands for all.
        sums: set to 0 for each segment where every entry of the result is finite, else to NaN.
        segments: as `segments_of` gives them.
    """
    zeros = broadcast(np.float32(0))
    for segment in range(first, last):
        entry = segments[segment, 1] + segments[segment, 2]
        size = segments[segment, 3]
        from_ = value + 4 * entry
        minus = reference + reference_stride * entry
        to = result + 4 * entry
        # 0 times what is not finite is NaN.
        flags = zeros
        for _ in range(size // LANES):
            entries = subtract(load(from_), load(minus))
            store(to, entries)
            flags = add(flags, multiply(zeros, entries))
            from_ += FLOATS_BYTES
            minus += LANES * reference_stride
            to += FLOATS_BYTES
        rest = 4 * (size % LANES)
        if rest > 0:
            entries = subtract(load_first(from_, rest), load_first(minus, rest))
            store_first(to, rest, entries)
            flags = add(flags, multiply(zeros, entries))
        sums[segment] = total(add_magnitudes(zero_doubles(), flags))


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
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """targets[k] += weights[k, m] * payload m, in one pass over the memory of the targets.

    Args:
        targets, payloads: addresses of float32 vectors.
        weights: targets x messages; where it is 0 the message is left out.
        segments: as `segments_of` gives them; first..last - 1 are worked on.
    """
    for segment in range(first, last):
        entry = segments[segment, 1] + segments[segment, 2]
        for start in range(0, segments[segment, 3], BLOCK):
            size = min(BLOCK, segments[segment, 3] - start)
            place = 4 * (entry + start)
            for k in range(targets.size):
                for m in range(payloads.size):
                    if weights[k, m] != 0:
                        _add_scaled(targets[k] + place, payloads[m] + place, weights[k, m], size)
