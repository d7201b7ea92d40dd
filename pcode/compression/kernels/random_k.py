"""CPU kernels of the random-k compressor; `pcode.compression.random_k` describes the message."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pcode.compression.kernels.lanes import kernel, load_float, prefetch, store_float

# Tensors of up to so many entries are shuffled; the positions of longer ones are permuted.
SHUFFLED_ENTRIES = 4096
# Positions that are drawn before the first is used: 16 KiB.
BLOCK = 4096
# Entries that are fetched ahead of the one that is used.
AHEAD = 32
# Random words of a tensor.
NUM_WORDS = 8


@kernel
def _word(key: np.uint64, number: int) -> np.uint64:
    """Number `number` of SplitMix64 started at the key."""
    z = key + np.uint64(number + 1) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    last: np.uint64 = z ^ (z >> np.uint64(31))
    return last


@kernel
def _shuffle(
    words: NDArray[np.uint32], size: int, kept: int, positions: NDArray[np.uint32]
) -> None:
    """The first `kept` positions of a Fisher-Yates shuffle of 0..size - 1, 52 bits a draw."""
    key = np.uint64(words[0]) << np.uint64(32) | np.uint64(words[1])
    for index in range(size):
        positions[index] = index
    for index in range(kept):
        draw = (_word(key, index) >> np.uint64(12)) * np.uint64(size - index)
        other = index + np.int64(draw >> np.uint64(52))
        positions[index], positions[other] = positions[other], positions[index]


@kernel
def _round(
    x: np.uint32, word: np.uint32, factor: np.uint32, mask: np.uint32, shift: np.uint32
) -> np.uint32:
    """One round of the permutation: add, multiply modulo a power of two, fold."""
    x = np.uint32(np.uint32(x + word) * factor) & mask
    x ^= x >> shift
    return x


@kernel
def _permute(
    words: NDArray[np.uint32], size: int, first: int, count: int, positions: NDArray[np.uint32]
) -> None:
    """Where a keyed permutation of 0..size - 1 puts `first` and the `count` - 1 after it."""
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
def draw_positions(
    words: NDArray[np.uint32], size: int, first: int, count: int, positions: NDArray[np.uint32]
) -> None:
    """The positions of the kept entries `first` to `first + count - 1` of a tensor, distinct.

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
def encode(
    value: int,
    reference: int,
    reference_stride: int,
    payload: int,
    sizes: NDArray[np.int64],
    offsets: NDArray[np.int64],
    scales: NDArray[np.float32],
    words: NDArray[np.uint32],
    sums: NDArray[np.float64],
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """Write the drawn entries of value - reference.

    Args:
        value, reference, payload: addresses.
        reference_stride: bytes from one entry of the reference to the next; 0 where the reference
            is one group of lanes that stands for all.
        sizes, offsets: of each tensor, in entries.
        scales: what the entries of each tensor are multiplied by.
        words: num_tensors x NUM_WORDS random words.
        sums: set to 0 for each segment where every drawn entry is finite, else to NaN.
        segments: of the kept entries; first..last - 1 are worked on.
    """
    positions = np.empty(BLOCK, dtype=np.uint32)
    for segment in range(first, last):
        tensor, values, begin, kept = segments[segment]
        from_ = value + 4 * offsets[tensor]
        minus = reference + reference_stride * offsets[tensor]
        flags = np.float32(0)
        for start in range(begin, begin + kept, BLOCK):
            count = min(BLOCK, begin + kept - start)
            draw_positions(words[tensor], sizes[tensor], start, count, positions)
            to = payload + 4 * (values + start)
            for index in range(count):
                ahead = np.int64(positions[min(index + AHEAD, count - 1)])
                prefetch(from_ + 4 * ahead)
                prefetch(minus + reference_stride * ahead)
                entry = np.int64(positions[index])
                difference = load_float(from_ + 4 * entry) - load_float(
                    minus + reference_stride * entry
                )
                # 0 times what is not finite is NaN.
                flags += np.float32(0) * difference
                store_float(to + 4 * index, scales[tensor] * difference)
        sums[segment] = flags


@kernel
def accumulate(
    targets: NDArray[np.int64],
    payload: int,
    weights: NDArray[np.float32],
    sizes: NDArray[np.int64],
    offsets: NDArray[np.int64],
    words: NDArray[np.uint32],
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """targets[k] += weights[k] * message, the positions drawn once for all targets.

    Args:
        targets, payload: addresses.
        weights: one for each target; where it is 0 the target is left alone.
        sizes, offsets: of each tensor, in entries.
        words: num_tensors x NUM_WORDS random words.
        segments: of the kept entries; first..last - 1 are worked on.
    """
    positions = np.empty(BLOCK, dtype=np.uint32)
    for segment in range(first, last):
        tensor, values, begin, kept = segments[segment]
        for start in range(begin, begin + kept, BLOCK):
            count = min(BLOCK, begin + kept - start)
            draw_positions(words[tensor], sizes[tensor], start, count, positions)
            from_ = payload + 4 * (values + start)
            for k in range(targets.size):
                if weights[k] != 0:
                    to = targets[k] + 4 * offsets[tensor]
                    for index in range(count):
                        prefetch(to + 4 * np.int64(positions[min(index + AHEAD, count - 1)]))
                        place = to + 4 * np.int64(positions[index])
                        addend = weights[k] * load_float(from_ + 4 * index)
                        store_float(place, load_float(place) + addend)
