"""Messages of values and the Elias-Fano code of their positions, added into vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pcode.compression.kernels.candidates import ENTRIES, START
from pcode.compression.kernels.elias_fano import Code, decode, find
from pcode.compression.kernels.lanes import kernel, load_float, store_float

# Decoded positions that stay in the first-level cache while they are added to all targets.
BLOCK = 1024


@kernel
def _add_decoded(
    target: int,
    values: int,
    weight: np.float32,
    positions: NDArray[np.int64],
    begin: int,
    end: int,
) -> None:
    """target[position] += weight * value, for the positions from begin to end - 1."""
    for index in range(positions.size):
        position = positions[index]
        if begin <= position < end:
            place = target + 4 * position
            store_float(place, load_float(place) + weight * load_float(values + 4 * index))


@kernel
def accumulate(
    targets: NDArray[np.int64],
    payloads: NDArray[np.int64],
    weights: NDArray[np.float32],
    code: Code,
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """targets[k] += weights[k, m] * message m, in the entries of segments first to last - 1.

    Args:
        targets, payloads: addresses.
        weights: targets x messages; where it is 0 the message is left out.
    """
    if first == last:
        return
    begin = segments[first, 1] + segments[first, START]
    end = segments[last - 1, 1] + segments[last - 1, START] + segments[last - 1, ENTRIES]
    block = np.empty(BLOCK, dtype=np.int64)
    for m in range(payloads.size):
        if not weights[:, m].any():
            continue
        positions_code = payloads[m] + 4 * code.num_positions
        index, bit = find(code, positions_code, begin)
        more = True
        while more:
            number, bit = decode(code, positions_code, index, bit, block)
            for k in range(targets.size):
                if weights[k, m] != 0:
                    values = payloads[m] + 4 * index
                    _add_decoded(targets[k], values, weights[k, m], block[:number], begin, end)
            index += number
            more = number == BLOCK and block[number - 1] < end
