"""Drawing on a GPU the entries that random-k selects of short tensors.

They are the first k of a Fisher-Yates shuffle, a chain of exchanges, which is followed in parallel:
see `_draw_shuffled`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from pcode.compression.kernels.gpu.blocks import mixed, word_of
from pcode.compression.kernels.gpu.launch import (
    MOST_MESSAGES,
    SEGMENT_WARPS,
    WIDEST_ACCESS,
    batches,
    launch,
)
from pcode.compression.random_k.draw import NUM_WORDS, SHUFFLED_ENTRIES

# Positions that are drawn for a tensor at least: one for each thread of a warp.
LEAST_POSITIONS = 32
# Positions of a tensor above which more warps draw them.
FEW_POSITIONS = 1024
# Bits of an entry's number in a tensor that is shuffled, with one to spare.
NUMBER_BITS = SHUFFLED_ENTRIES.bit_length()


class Shuffled(NamedTuple):
    """The tensors that are shuffled, on the device.

    Attributes:
        rows: for each its number, and its selected entries, int64.
        num_positions: room for the selected entries of all of these, the same for each message.
        most_positions: a power of two, and no less than the selected entries of any of these.
    """

    rows: torch.Tensor
    num_positions: int
    most_positions: int


def shuffled_of(selected: Sequence[tuple[int, int]], device: torch.device) -> Shuffled:
    """Return what is to be drawn.

    Args:
        selected: the numbers of the tensors, each with its selected entries.
    """
    counts = [count for _, count in selected]
    return Shuffled(
        torch.tensor(selected, dtype=torch.int64, device=device).view(-1, 2),
        triton.cdiv(sum(counts), WIDEST_ACCESS) * WIDEST_ACCESS,
        triton.next_power_of_2(max([LEAST_POSITIONS, *counts])),
    )


@triton.jit
def _sorted(keys: tl.tensor, NUM_KEYS: tl.constexpr) -> Any:
    """Sort the keys: Batcher's bitonic sort, each step one exchange of all pairs."""
    lanes = tl.arange(0, NUM_KEYS)
    length = 2
    while length <= NUM_KEYS:
        distance = length // 2
        while distance > 0:
            others = tl.gather(keys, lanes ^ distance, axis=0)
            is_first, is_ascending = (lanes & distance) == 0, (lanes & length) == 0
            smaller, larger = tl.minimum(keys, others), tl.maximum(keys, others)
            keys = tl.where(is_first == is_ascending, smaller, larger)
            distance = distance // 2
        length = length * 2
    return keys


@triton.jit
def _last_below(ascending: tl.tensor, bounds: tl.tensor, NUM_KEYS: tl.constexpr) -> Any:
    """Return the largest of the keys that is below each bound, else the smallest of all."""
    at = tl.zeros_like(bounds)
    step = NUM_KEYS // 2
    while step > 0:
        at = tl.where(tl.gather(ascending, at + step, axis=0) < bounds, at + step, at)
        step = step // 2
    return tl.gather(ascending, at, axis=0)


@triton.jit
def _last_exchange(
    ascending: tl.tensor,
    cells: tl.tensor,
    numbers: tl.tensor,
    MOST: tl.constexpr,
    NUMBER_BITS: tl.constexpr,
) -> Any:
    """Return whether an exchange before `numbers` was of each cell, and the last such exchange."""
    bounds = (cells << NUMBER_BITS) | numbers
    found = _last_below(ascending, bounds, MOST)
    is_any = (found < bounds) & ((found >> NUMBER_BITS) == cells)
    return is_any, tl.where(is_any, found & ((1 << NUMBER_BITS) - 1), 0)


# Keys one by one: what a tuple holds would be specialized.
@triton.jit(do_not_specialize=["num_keys", "key_0", "key_1", "key_2", "key_3"])
def _draw_shuffled(
    tensors: tl.tensor,
    shuffled: tl.tensor,
    num_keys: tl.tensor,
    key_0: tl.tensor,
    key_1: tl.tensor,
    key_2: tl.tensor,
    key_3: tl.tensor,
    positions: tl.tensor,
    num_positions: tl.tensor,
    NUM_WORDS: tl.constexpr,
    NUMBER_BITS: tl.constexpr,
    MOST: tl.constexpr,
) -> None:
    """Draw, for one of the keys, where the entries selected of this program's tensor are.

    Exchange i of the shuffle, i = 0, 1, ..., is of the contents of cells i and c(i) >= i, and
    leaves position i in cell i. Before it, a cell c >= i holds what the last exchange j < i with
    c(j) = c has brought from cell j, or c itself if there was none. So every position ends a
    chain of exchanges, and all chains are followed at once, in steps that double.
    """
    number, program = tl.program_id(0) % num_keys, tl.program_id(0) // num_keys
    key = tl.where(number == 0, key_0, tl.where(number == 1, key_1, key_2))
    key = tl.where(number == 3, key_3, key)
    positions += number.to(tl.int64) * num_positions
    tensor, num_selected = tl.load(shuffled + 2 * program), tl.load(shuffled + 2 * program + 1)
    row, first_word = tensors + 4 * tensor, tensor * NUM_WORDS
    upper, lower = word_of(key, first_word), word_of(key, first_word + 1)
    seed = (upper.to(tl.uint64) << 32) | lower.to(tl.uint64)
    numbers = tl.arange(0, MOST)
    inside = numbers < num_selected
    choices = tl.where(inside, tl.load(row + 1) - numbers, 1).to(tl.uint64)
    cells = numbers + (((mixed(seed, numbers) >> 12) * choices) >> 52).to(tl.int32)
    # By cell, then by exchange; those that do not take place come last.
    last = 1 << (2 * NUMBER_BITS)
    keys = _sorted(tl.where(inside, (cells << NUMBER_BITS) | numbers, last + numbers), MOST)
    is_any, origins = _last_exchange(keys, numbers, numbers, MOST, NUMBER_BITS)
    origins = tl.where(is_any, origins, numbers)
    steps = MOST
    while steps > 1:
        origins = tl.gather(origins, origins, axis=0)
        steps = steps // 2
    is_any, exchanges = _last_exchange(keys, cells, numbers, MOST, NUMBER_BITS)
    drawn = tl.where(is_any, tl.gather(origins, exchanges, axis=0), cells)
    tl.store(positions + tl.load(row + 3) + numbers, drawn, mask=inside)


def draw(shuffled: Shuffled, tensors: torch.Tensor, keys: list[int]) -> torch.Tensor:
    """Draw for each key where the selected entries are within their tensors, int32.

    Args:
        tensors: a row of four int64 for each tensor of the layout: the second holds its entries,
            the fourth where its positions begin among those of all that are shuffled.
    """
    positions = torch.empty(
        len(keys), shuffled.num_positions, dtype=torch.int32, device=tensors.device
    )
    for part in batches(len(keys)):
        some = keys[part]
        launch(
            _draw_shuffled,
            len(shuffled.rows) * len(some),
            tensors,
            shuffled.rows,
            len(some),
            *some,
            *(some[-1:] * (MOST_MESSAGES - len(some))),
            positions[part],
            shuffled.num_positions,
            NUM_WORDS=NUM_WORDS,
            NUMBER_BITS=NUMBER_BITS,
            MOST=shuffled.most_positions,
            num_warps=SEGMENT_WARPS if shuffled.most_positions > FEW_POSITIONS else 4,
        )
    return positions
