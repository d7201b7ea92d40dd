"""CPU kernels for messages of all entries as float32."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pcode.compression.base import Compressor, Message
from pcode.compression.kernels.cpu.blocks import INFINITY_BITS, add_scaled, largest_magnitude
from pcode.compression.kernels.cpu.cache import kernel
from pcode.compression.kernels.cpu.memory import BLOCK, addresses_of, floats_at, reference_of
from pcode.compression.kernels.cpu.parallel import run_segments, sum_segments
from pcode.utils.layout import Layout


@kernel
def _encode(
    value: NDArray[np.float32],
    reference: NDArray[np.float32],
    stride: int,
    payload: NDArray[np.uint8],
    sums: NDArray[np.float64],
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """Write value - reference, and for each segment 0 where all of it is finite, else NaN."""
    for segment in range(first, last):
        _, offset, start, size = segments[segment]
        sums[segment] = 0
        end = offset + start + size
        for entry in range(offset + start, end, BLOCK):
            num_entries = min(BLOCK, end - entry)
            entries = value[entry : entry + num_entries]
            minus = reference[stride * entry : stride * entry + num_entries]
            result = payload[4 * entry : 4 * (entry + num_entries)].view(np.float32)
            for i in range(num_entries):
                result[i] = entries[i] - minus[i]
            if largest_magnitude(result.view(np.int32)) >= INFINITY_BITS:
                sums[segment] = np.nan


@kernel
def _accumulate(
    targets: NDArray[np.int64],
    payloads: NDArray[np.int64],
    weights: NDArray[np.float32],
    segments: NDArray[np.int64],
    first: int,
    last: int,
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


def encode(
    compressor: Compressor,
    layout: Layout,
    value: torch.Tensor,
    reference: torch.Tensor | None,
    message: Message,
) -> None:
    payload = message.payload.numpy()
    sum_segments(_encode, layout, value.detach().numpy(), *reference_of(reference), payload)


def accumulate(
    compressor: Compressor,
    layout: Layout,
    messages: Sequence[Message],
    targets: Sequence[torch.Tensor],
    weights: NDArray[np.float32],
) -> None:
    payloads = addresses_of(message.payload for message in messages)
    run_segments(_accumulate, layout.sizes, addresses_of(targets), payloads, weights)
