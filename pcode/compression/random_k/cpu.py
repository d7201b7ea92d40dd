"""CPU kernels of the random-k compressor, which describes the message."""

import numpy as np

from pcode.compression.base import Difference, Message, WeightedSum
from pcode.compression.draws import words_of
from pcode.compression.kernels.cpu.cache import kernel
from pcode.compression.kernels.cpu.memory import (
    AHEAD,
    Addresses,
    Bytes,
    Doubles,
    Floats,
    Ints,
    Words,
    addresses_in,
    addresses_of,
    floats_at,
    prefetch,
)
from pcode.compression.kernels.cpu.parallel import array_of, run_segments, sum_segments
from pcode.compression.random_k.draw import NUM_WORDS, SHUFFLED_ENTRIES, scales_of
from pcode.utils.layout import Layout

# Positions that are drawn before the first is used: 16 KiB.
BLOCK = 4096
# An entry is a random access, some ten times the time of one that follows the last.
ENTRIES_PER_THREAD = 1 << 14


@kernel
def _word(key: np.uint64, number: int) -> np.uint64:
    """Draw number `number` of SplitMix64 started at the key."""
    z = key + np.uint64(number + 1) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    last: np.uint64 = z ^ (z >> np.uint64(31))
    return last


@kernel
def _shuffle(words: Words, size: int, num_selected: int, positions: Words) -> None:
    """Draw the first positions of a Fisher-Yates shuffle of 0..size - 1, 52 bits a draw."""
    key = np.uint64(words[0]) << np.uint64(32) | np.uint64(words[1])
    for index in range(size):
        positions[index] = index
    for index in range(num_selected):
        draw = (_word(key, index) >> np.uint64(12)) * np.uint64(size - index)
        other = index + np.int64(draw >> np.uint64(52))
        positions[index], positions[other] = positions[other], positions[index]


@kernel
def _round(
    x: np.uint32, word: np.uint32, factor: np.uint32, mask: np.uint32, shift: np.uint32
) -> np.uint32:
    """Do a round of the permutation: add, multiply modulo a power of two, fold."""
    x = np.uint32(np.uint32(x + word) * factor) & mask
    x ^= x >> shift
    return x


@kernel
def _permute(words: Words, size: int, first: int, count: int, positions: Words) -> None:
    """Find where a keyed permutation of 0..size - 1 puts `first` and the `count` - 1 after it."""
    bits = 0
    while (1 << bits) < size:
        bits += 1
    mask = np.uint32((1 << bits) - 1)
    shift = np.uint32((bits + 1) // 2)
    limit = np.uint32(size)
    a, b, c, d = words[0], words[1], words[2], words[3]
    # Odd factors are invertible.
    e, f, g, h = words[4] | 1, words[5] | 1, words[6] | 1, words[7] | 1
    for index in range(count):
        x = _round(np.uint32(first + index), a, e, mask, shift)
        x = _round(_round(_round(x, b, f, mask, shift), c, g, mask, shift), d, h, mask, shift)
        positions[index] = x
    for index in range(count):
        x = positions[index]
        # The permutation is one of 2 ** bits numbers; its cycle leads back below size.
        while x >= limit:
            x = _round(_round(x, a, e, mask, shift), b, f, mask, shift)
            x = _round(_round(x, c, g, mask, shift), d, h, mask, shift)
        positions[index] = x


@kernel
def draw_positions(words: Words, size: int, first: int, count: int, positions: Words) -> None:
    """Draw where the selected entries `first` to `first + count - 1` of a tensor are, distinct.

    Args:
        words: NUM_WORDS random words of the tensor.
        size: entries of the tensor; where it is at most SHUFFLED_ENTRIES, `first` is 0.
        positions: has room for SHUFFLED_ENTRIES and for `count`.
    """
    if size <= SHUFFLED_ENTRIES:
        _shuffle(words, size, count, positions)
    else:
        _permute(words, size, first, count, positions)


@kernel
def _encode(
    difference: Addresses,
    payload: Bytes,
    sizes: Ints,
    offsets: Ints,
    scales: Floats,
    words: Words,
    sums: Doubles,
    segments: Ints,
    first: int,
    last: int,
) -> None:
    """Write the drawn entries of value - reference.

    Args:
        scales: what the entries of each tensor are multiplied by.
        words: num_tensors x NUM_WORDS random words.
        sums: set to 0 for each segment where every drawn entry is finite, else to NaN.
        segments: of the selected entries.
    """
    positions = np.empty(BLOCK, dtype=np.uint32)
    values = payload.view(np.float32)
    for segment in range(first, last):
        tensor, before, begin, num_selected = segments[segment]
        size, offset = sizes[tensor], offsets[tensor]
        value = floats_at(difference.value + 4 * offset, size)
        reference = floats_at(difference.reference + 4 * difference.stride * offset, size)
        flags = np.float32(0)
        for start in range(begin, begin + num_selected, BLOCK):
            count = min(BLOCK, begin + num_selected - start)
            draw_positions(words[tensor], size, start, count, positions)
            for index in range(count):
                ahead = np.int64(positions[min(index + AHEAD, count - 1)])
                prefetch(difference.value + 4 * (offset + ahead))
                prefetch(difference.reference + 4 * difference.stride * (offset + ahead))
                entry = np.int64(positions[index])
                each = value[entry] - reference[difference.stride * entry]
                # 0 times what is not finite is NaN.
                flags += np.float32(0) * each
                values[before + start + index] = scales[tensor] * each
        sums[segment] = flags


@kernel
def _accumulate(
    targets: Ints,
    payload: Bytes,
    weights: Floats,
    sizes: Ints,
    offsets: Ints,
    words: Words,
    segments: Ints,
    first: int,
    last: int,
) -> None:
    """targets[k] += weights[k] * message, the positions drawn once for all targets.

    Args:
        weights: one for each target; where it is 0 the target is left alone.
        words: num_tensors x NUM_WORDS random words.
        segments: of the selected entries.
    """
    positions = np.empty(BLOCK, dtype=np.uint32)
    values = payload.view(np.float32)
    for segment in range(first, last):
        tensor, before, begin, num_selected = segments[segment]
        for start in range(begin, begin + num_selected, BLOCK):
            count = min(BLOCK, begin + num_selected - start)
            draw_positions(words[tensor], sizes[tensor], start, count, positions)
            place = np.uint64(before + start)
            for k in range(targets.size):
                weight, address = weights[k], targets[k] + 4 * offsets[tensor]
                if weight != 0:
                    target = floats_at(address, sizes[tensor])
                    for index in range(count):
                        ahead = np.int64(positions[min(index + AHEAD, count - 1)])
                        prefetch(address + 4 * ahead)
                        target[positions[index]] += weight * values[place + np.uint64(index)]


def encode(
    layout: Layout,
    difference: Difference,
    message: Message,
    selected: tuple[int, ...],
    is_biased: bool,
) -> None:
    sum_segments(
        _encode,
        layout,
        addresses_of(difference),
        message.payload.numpy(),
        array_of(layout.sizes),
        array_of(layout.offsets),
        scales_of(layout.sizes, selected, is_biased),
        words_of(message.key, layout.num_tensors, NUM_WORDS),
        sizes=selected,
        entries_per_thread=ENTRIES_PER_THREAD,
    )


def accumulate(
    layout: Layout, added: WeightedSum, selected: tuple[int, ...], is_biased: bool
) -> None:
    # Two messages may hold the same entry: one after the other, not on two threads at once.
    columns = np.ascontiguousarray(added.weights.T)
    for message, column in zip(added.messages, columns, strict=True):
        run_segments(
            _accumulate,
            selected,
            addresses_in(added.targets),
            message.payload.numpy(),
            column,
            array_of(layout.sizes),
            array_of(layout.offsets),
            words_of(message.key, layout.num_tensors, NUM_WORDS),
            entries_per_thread=ENTRIES_PER_THREAD,
        )
