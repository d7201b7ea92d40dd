"""CPU kernels of the sign compressor, which describes the message.

Blocks are functions of their own: an optimizer may step between adding and encoding a block, while
that is in the cache (`pcode.optim.fused`).
"""

import numpy as np

from pcode.compression.base import Difference, Message, WeightedSum
from pcode.compression.kernels.cpu.blocks import pack_signs, subtract, total_of
from pcode.compression.kernels.cpu.cache import kernel
from pcode.compression.kernels.cpu.memory import (
    BLOCK,
    Addresses,
    Doubles,
    Floats,
    Ints,
    addresses_of,
    addresses_of_sum,
    bytes_at,
    floats_at,
    load_word,
    store_word,
)
from pcode.compression.kernels.cpu.parallel import array_of, run_segments, sum_segments
from pcode.compression.kernels.cpu.vectors import LANES, WORD, add_signed, compare
from pcode.compression.sign.places import places_of
from pcode.utils.layout import Layout


@kernel
def encode_block(
    difference: Addresses, entry: int, size: int, signs: int, sums: Doubles, room: Floats
) -> None:
    """Write the signs of a block at an address and add its magnitudes to the LANES sums."""
    whole = size // WORD * WORD
    value = difference.value + 4 * entry
    reference = difference.reference + 4 * difference.stride * entry
    for first in range(0, whole, WORD):
        apart = 4 * first
        word = compare(value + apart, reference + difference.stride * apart, sums.ctypes.data)
        store_word(signs + first // 8, word)
    if whole < size:
        subtract(difference, entry + whole, size - whole, room)
        pack_signs(room, size - whole, signs + whole // 8)
        for i in range(size - whole):
            sums[i % LANES] += np.float64(abs(room[i]))


@kernel
def _encode(
    difference: Addresses,
    payload: int,
    places: Ints,
    sums: Doubles,
    segments: Ints,
    first: int,
    last: int,
) -> None:
    """Write the bits of value - reference, reading both once, and sum magnitudes by segment."""
    room, lanes = np.empty(BLOCK, np.float32), np.empty(LANES)
    for segment in range(first, last):
        tensor, offset, start, size = segments[segment]
        lanes[:] = 0
        for begin in range(start, start + size, BLOCK):
            signs = payload + places[tensor] + begin // 8
            num_entries = min(BLOCK, start + size - begin)
            encode_block(difference, offset + begin, num_entries, signs, lanes, room)
        sums[segment] = total_of(lanes)


@kernel
def accumulate_block(
    targets: Ints,
    payloads: Ints,
    weights: Floats,
    tensor: int,
    entry: int,
    place: int,
    num_entries: int,
) -> None:
    """`_accumulate` for a block.

    Args:
        entry, place: where the block begins in a vector, and its bits in a message, in bytes.
    """
    whole = num_entries // WORD * WORD
    for k in range(targets.size):
        target = targets[k] + 4 * entry
        rest = floats_at(target + 4 * whole, num_entries - whole)
        for m in range(payloads.size):
            if weights[k, m] != 0:
                plus = weights[k, m] * floats_at(payloads[m] + 4 * tensor, 1)[0]
                for first in range(0, whole, WORD):
                    word = load_word(payloads[m] + place + first // 8)
                    add_signed(target + 4 * first, word, plus)
                signs = bytes_at(payloads[m] + place + whole // 8, (rest.size + 7) // 8)
                for i in range(rest.size):
                    rest[i] += -plus if (signs[i // 8] >> (i % 8)) & 1 else plus


@kernel
def _accumulate(
    targets: Ints,
    payloads: Ints,
    weights: Floats,
    places: Ints,
    segments: Ints,
    first: int,
    last: int,
) -> None:
    """targets[k] += weights[k, m] * message m, in one pass over the memory of the targets."""
    for segment in range(first, last):
        tensor, offset, start, size = segments[segment]
        for begin in range(start, start + size, BLOCK):
            num_entries = min(BLOCK, start + size - begin)
            entry, place = offset + begin, places[tensor] + begin // 8
            accumulate_block(targets, payloads, weights, tensor, entry, place, num_entries)


def write_means(layout: Layout, message: Message, norms: Doubles) -> None:
    """Write ||v||_1 / d of each tensor."""
    means = norms / np.maximum(array_of(layout.sizes), 1)
    message.payload.numpy()[: 4 * means.size].view("<f4")[:] = means


def encode(layout: Layout, difference: Difference, message: Message) -> None:
    vectors, payload = addresses_of(difference), message.payload.data_ptr()
    norms = sum_segments(_encode, layout, vectors, payload, places_of(layout.sizes))
    write_means(layout, message, norms)


def accumulate(layout: Layout, added: WeightedSum) -> None:
    places = places_of(layout.sizes)
    run_segments(_accumulate, layout.sizes, *addresses_of_sum(added), places)
