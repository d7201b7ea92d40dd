"""CPU kernels of the sign compressor, which describes the message.

Blocks are functions of their own: an optimizer may step between adding and encoding a block, while
that is in the cache (`pcode.optim.fused`).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pcode.compression.base import Message
from pcode.compression.kernels.cpu.blocks import (
    LANES,
    add_magnitudes,
    pack_signs,
    subtract,
    total_of,
    unpack_bits,
)
from pcode.compression.kernels.cpu.cache import kernel
from pcode.compression.kernels.cpu.memory import (
    BLOCK,
    addresses_of,
    bytes_at,
    floats_at,
    reference_of,
)
from pcode.compression.kernels.cpu.parallel import array_of, run_segments, sum_segments
from pcode.compression.sign import Sign, places_of
from pcode.utils.layout import Layout


@kernel
def encode_block(
    value: NDArray[np.float32],
    reference: NDArray[np.float32],
    signs: NDArray[np.uint8],
    sums: NDArray[np.float64],
    room: NDArray[np.float32],
) -> None:
    """Write the signs of value - reference and add the magnitudes to the LANES sums."""
    difference = subtract(value, reference, room)
    pack_signs(difference, signs)
    add_magnitudes(sums, difference)


@kernel
def _encode(
    value: NDArray[np.float32],
    reference: NDArray[np.float32],
    stride: int,
    payload: NDArray[np.uint8],
    places: NDArray[np.int64],
    sums: NDArray[np.float64],
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """Write the bits of value - reference, reading both once, and sum magnitudes by segment."""
    room, lanes = np.empty(BLOCK, np.float32), np.empty(LANES)
    for segment in range(first, last):
        tensor, offset, start, size = segments[segment]
        lanes[:] = 0
        for begin in range(start, start + size, BLOCK):
            num_entries = min(BLOCK, start + size - begin)
            entry, place = offset + begin, places[tensor] + begin // 8
            encode_block(
                value[entry : entry + num_entries],
                reference[stride * entry : stride * entry + num_entries],
                payload[place : place + (num_entries + 7) // 8],
                lanes,
                room,
            )
        sums[segment] = total_of(lanes)


@kernel
def accumulate_block(
    targets: NDArray[np.int64],
    payloads: NDArray[np.int64],
    weights: NDArray[np.float32],
    tensor: int,
    entry: int,
    place: int,
    num_entries: int,
    bits: NDArray[np.uint8],
) -> None:
    """`_accumulate` for a block.

    Args:
        entry, place: where the block begins in a vector, and its bits in a message, in bytes.
        bits: room for num_messages x BLOCK.
    """
    for m in range(payloads.size):
        unpack_bits(bytes_at(payloads[m] + place, (num_entries + 7) // 8), bits[m])
    for k in range(targets.size):
        target = floats_at(targets[k] + 4 * entry, num_entries)
        for m in range(payloads.size):
            if weights[k, m] != 0:
                plus = weights[k, m] * floats_at(payloads[m] + 4 * tensor, 1)[0]
                minus = bits[m]
                for i in range(num_entries):
                    target[i] += -plus if minus[i] else plus


@kernel
def _accumulate(
    targets: NDArray[np.int64],
    payloads: NDArray[np.int64],
    weights: NDArray[np.float32],
    places: NDArray[np.int64],
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """targets[k] += weights[k, m] * message m, in one pass over the memory of the targets."""
    bits = np.empty((payloads.size, BLOCK), np.uint8)
    for segment in range(first, last):
        tensor, offset, start, size = segments[segment]
        for begin in range(start, start + size, BLOCK):
            num_entries = min(BLOCK, start + size - begin)
            entry, place = offset + begin, places[tensor] + begin // 8
            accumulate_block(targets, payloads, weights, tensor, entry, place, num_entries, bits)


def write_means(layout: Layout, message: Message, norms: NDArray[np.float64]) -> None:
    """Write ||v||_1 / d of each tensor."""
    means = norms / np.maximum(array_of(layout.sizes), 1)
    message.payload.numpy()[: 4 * means.size].view("<f4")[:] = means


def encode(
    compressor: Sign,
    layout: Layout,
    value: torch.Tensor,
    reference: torch.Tensor | None,
    message: Message,
) -> None:
    norms = sum_segments(
        _encode,
        layout,
        value.detach().numpy(),
        *reference_of(reference),
        message.payload.numpy(),
        places_of(layout.sizes),
    )
    write_means(layout, message, norms)


def accumulate(
    compressor: Sign,
    layout: Layout,
    messages: Sequence[Message],
    targets: Sequence[torch.Tensor],
    weights: NDArray[np.float32],
) -> None:
    payloads = addresses_of(message.payload for message in messages)
    places = places_of(layout.sizes)
    run_segments(_accumulate, layout.sizes, addresses_of(targets), payloads, weights, places)
