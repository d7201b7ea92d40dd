"""CPU kernels for messages of all entries as float32."""

import numpy as np

from pcode.compression.base import Difference, Message, WeightedSum
from pcode.compression.kernels.cpu.blocks import INFINITY_BITS, add_scaled, largest_magnitude
from pcode.compression.kernels.cpu.cache import kernel
from pcode.compression.kernels.cpu.memory import (
    BLOCK,
    Addresses,
    Doubles,
    Floats,
    Ints,
    addresses_of,
    addresses_of_sum,
    floats_at,
)
from pcode.compression.kernels.cpu.parallel import run_segments, sum_segments
from pcode.utils.layout import Layout


@kernel
def _encode(
    difference: Addresses, payload: int, sums: Doubles, segments: Ints, first: int, last: int
) -> None:
    """Write value - reference, and for each segment 0 where all of it is finite, else NaN."""
    for segment in range(first, last):
        _, offset, start, size = segments[segment]
        sums[segment] = 0
        end = offset + start + size
        for entry in range(offset + start, end, BLOCK):
            num_entries = min(BLOCK, end - entry)
            value = floats_at(difference.value + 4 * entry, num_entries)
            reference = floats_at(difference.reference + 4 * difference.stride * entry, num_entries)
            sent = floats_at(payload + 4 * entry, num_entries)
            for i in range(num_entries):
                sent[i] = value[i] - reference[i]
            if largest_magnitude(sent.view(np.int32)) >= INFINITY_BITS:
                sums[segment] = np.nan


@kernel
def _accumulate(
    targets: Ints, payloads: Ints, weights: Floats, segments: Ints, first: int, last: int
) -> None:
    """targets[k] += weights[k, m] * message m, in one pass over the memory of the targets."""
    for segment in range(first, last):
        _, offset, start, size = segments[segment]
        end = offset + start + size
        for entry in range(offset + start, end, BLOCK):
            num_entries = min(BLOCK, end - entry)
            for k in range(targets.size):
                target = floats_at(targets[k] + 4 * entry, num_entries)
                for m in range(payloads.size):
                    if weights[k, m] != 0:
                        message = floats_at(payloads[m] + 4 * entry, num_entries)
                        add_scaled(target, message, weights[k, m])


def encode(layout: Layout, difference: Difference, message: Message) -> None:
    sum_segments(_encode, layout, addresses_of(difference), message.payload.data_ptr())


def accumulate(layout: Layout, added: WeightedSum) -> None:
    run_segments(_accumulate, layout.sizes, *addresses_of_sum(added))
