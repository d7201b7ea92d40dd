"""GPU kernels of the random-k compressor; `pcode.compression.random_k` describes the message.

Positions are drawn on the GPU. In long tensors each is found by itself, as on the CPU. Those of
short tensors, the first k of a Fisher-Yates shuffle, come from a chain of exchanges, which is
followed in parallel: see `_draw_shuffled`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from pcode.compression.base import Message
from pcode.compression.gpu.accumulate import add_at, weighted
from pcode.compression.gpu.blocks import difference, floats_at, mixed, segment_of, word_of
from pcode.compression.gpu.memory import (
    MOST_MESSAGES,
    SEGMENT_WARPS,
    WIDEST_ACCESS,
    Segments,
    batches,
    check_inputs,
    check_sum,
    launch,
    segments_of_sizes,
    signed_key,
)
from pcode.compression.kernels.random_k import NUM_WORDS, SHUFFLED_ENTRIES
from pcode.compression.random_k import RandomK
from pcode.layout import Layout

# Kept entries of a program: few, as each waits for a read of its own.
ENTRIES = 1024
# Positions that are drawn for a shuffled tensor at least: one for each thread of a warp.
LEAST_POSITIONS = 32
# Bits of an entry's number in a tensor that is shuffled, with one to spare.
NUMBER_BITS = SHUFFLED_ENTRIES.bit_length()


class _Tables(NamedTuple):
    """What follows from a layout and the entries kept, on the device.

    Attributes:
        tensors: num_tensors x 4 int64: offset in the vector, entries, bits of their numbers, and
            where a shuffled tensor's positions begin among those of all such tensors, else -1.
        scales: what the kept entries of each tensor are multiplied by.
        segments: of the kept entries.
        shuffled: a row for each tensor that is shuffled, int64: its number, and its kept entries.
        num_positions: room for the kept entries of all of these, the same for each message.
        most_positions: a power of two, and no less than the kept entries of any of these.
    """

    tensors: torch.Tensor
    scales: torch.Tensor
    segments: Segments
    shuffled: torch.Tensor
    num_positions: int
    most_positions: int


@lru_cache(maxsize=64)
def _tables_of(
    layout: Layout, compress_ratio: float, is_biased: bool, device: torch.device
) -> _Tables:
    compressor = RandomK(compress_ratio, is_biased)
    kept, scales = compressor.kept(layout), compressor.scales(layout)
    rows, shuffled, place, most = [], [], 0, LEAST_POSITIONS
    for tensor, (offset, size) in enumerate(zip(layout.offsets, layout.sizes, strict=True)):
        is_short = size <= SHUFFLED_ENTRIES
        rows.append((offset, size, max(size - 1, 0).bit_length(), place if is_short else -1))
        if is_short and size > 0:
            shuffled.append((tensor, kept[tensor]))
            place += kept[tensor]
            most = max(most, kept[tensor])
    return _Tables(
        torch.tensor(rows, dtype=torch.int64, device=device).view(-1, 4),
        torch.from_numpy(scales).to(device),
        segments_of_sizes(kept, device, ENTRIES),
        torch.tensor(shuffled, dtype=torch.int64, device=device).view(-1, 2),
        triton.cdiv(place, WIDEST_ACCESS) * WIDEST_ACCESS,
        triton.next_power_of_2(most),
    )


def _tables(compressor: RandomK, layout: Layout, device: torch.device) -> _Tables:
    return _tables_of(layout, compressor.compress_ratio, compressor.is_biased, device)


@triton.jit
def _sorted(keys: tl.tensor, NUM_KEYS: tl.constexpr) -> Any:
    """The keys in ascending order: Batcher's bitonic sort, each step one exchange of all pairs."""
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
    """The largest of the keys that is below each bound, else the smallest of all."""
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
    """Whether an exchange before `numbers` was of each cell, and the last such exchange."""
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
    """For one of the keys, the positions of the kept entries of the tensor in this program's row.

    Exchange i of the shuffle, i = 0, 1, ..., is of the contents of cells i and c(i) >= i, and
    leaves position i in cell i. Before it, a cell c >= i holds what the last exchange j < i with
    c(j) = c has brought from cell j, or c itself if there was none. So every position ends a
    chain of exchanges, and all chains are followed at once, in steps that double.
    """
    number, program = tl.program_id(0) % num_keys, tl.program_id(0) // num_keys
    key = tl.where(number == 0, key_0, tl.where(number == 1, key_1, key_2))
    key = tl.where(number == 3, key_3, key)
    positions += number.to(tl.int64) * num_positions
    tensor, kept = tl.load(shuffled + 2 * program), tl.load(shuffled + 2 * program + 1)
    row, first_word = tensors + 4 * tensor, tensor * NUM_WORDS
    upper, lower = word_of(key, first_word), word_of(key, first_word + 1)
    seed = (upper.to(tl.uint64) << 32) | lower.to(tl.uint64)
    numbers = tl.arange(0, MOST)
    inside = numbers < kept
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


@triton.jit
def _folded(
    x: tl.tensor, word: tl.tensor, factor: tl.tensor, mask: tl.tensor, shift: tl.tensor
) -> Any:
    """One round of the permutation: add, multiply modulo a power of two, fold."""
    x = ((x + word) * factor) & mask
    return x ^ (x >> shift)


@triton.jit
def _permuted(
    x: tl.tensor, key: tl.tensor, first: tl.tensor, mask: tl.tensor, shift: tl.tensor
) -> Any:
    """Four rounds with a tensor's words, from word number `first` on."""
    for number in tl.static_range(4):
        factor = word_of(key, first + 4 + number) | 1
        x = _folded(x, word_of(key, first + number), factor, mask, shift)
    return x


@triton.jit
def _places(
    tensors: tl.tensor,
    drawn: tl.tensor,
    key: tl.tensor,
    tensor: tl.tensor,
    numbers: tl.tensor,
    inside: tl.tensor,
    NUM_WORDS: tl.constexpr,
) -> Any:
    """Where in the vector the kept entries of these numbers of a tensor are."""
    row = tensors + 4 * tensor
    size, bits, begin = tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)
    x = numbers.to(tl.uint32)
    if begin >= 0:
        x = tl.load(drawn + begin + numbers, mask=inside, other=0).to(tl.uint32)
    else:
        one = tl.full([], 1, tl.int64)
        mask, shift = ((one << bits) - 1).to(tl.uint32), ((bits + 1) // 2).to(tl.uint32)
        limit = size.to(tl.uint32)
        first = tensor * NUM_WORDS
        x = _permuted(x, key, first, mask, shift)
        # The permutation is one of 2 ** bits numbers; its cycle leads back below size.
        outside = inside & (x >= limit)
        while tl.max(outside.to(tl.int32), axis=0) > 0:
            x = tl.where(outside, _permuted(x, key, first, mask, shift), x)
            outside = inside & (x >= limit)
    return tl.load(row) + x.to(tl.int64)


@triton.jit(do_not_specialize=["key"])
def _encode(
    value: tl.tensor,
    reference: tl.tensor,
    payload: tl.tensor,
    tensors: tl.tensor,
    scales: tl.tensor,
    drawn: tl.tensor,
    key: tl.tensor,
    segments: tl.tensor,
    NUM_WORDS: tl.constexpr,
    ENTRIES: tl.constexpr,
) -> None:
    tensor, first, start, count = segment_of(segments, 1)
    entries = tl.arange(0, ENTRIES)
    inside = entries < count
    places = _places(tensors, drawn, key, tensor, start + entries, inside, NUM_WORDS)
    result = tl.load(scales + tensor) * difference(value, reference, places, inside)
    tl.store(floats_at(payload) + first + entries, result, mask=inside)


@triton.jit(do_not_specialize=["key"])
def _accumulate(
    targets: tl.tuple,
    weights: tl.tuple,
    payload: tl.tensor,
    tensors: tl.tensor,
    drawn: tl.tensor,
    key: tl.tensor,
    segments: tl.tensor,
    NUM_WORDS: tl.constexpr,
    ENTRIES: tl.constexpr,
) -> None:
    tensor, first, start, count = segment_of(segments, 1)
    entries = tl.arange(0, ENTRIES)
    inside = entries < count
    places = _places(tensors, drawn, key, tensor, start + entries, inside, NUM_WORDS)
    values = tl.load(floats_at(payload) + first + entries, mask=inside)
    add_at(targets, weights, places, inside, values)


def _drawn(tables: _Tables, keys: list[int]) -> torch.Tensor:
    """For each key, the positions of the kept entries of the tensors that are shuffled."""
    positions = torch.empty(
        len(keys), tables.num_positions, dtype=torch.int32, device=tables.tensors.device
    )
    for part in batches(len(keys)):
        some = keys[part]
        launch(
            _draw_shuffled,
            len(tables.shuffled) * len(some),
            tables.tensors,
            tables.shuffled,
            len(some),
            *some,
            *(some[-1:] * (MOST_MESSAGES - len(some))),
            positions[part],
            tables.num_positions,
            NUM_WORDS=NUM_WORDS,
            NUMBER_BITS=NUMBER_BITS,
            MOST=tables.most_positions,
            num_warps=SEGMENT_WARPS if tables.most_positions > ENTRIES else 4,
        )
    return positions


def encode(
    compressor: RandomK,
    layout: Layout,
    value: torch.Tensor,
    reference: torch.Tensor | None,
    message: Message,
) -> None:
    """As `RandomK.encode`, on the GPU."""
    check_inputs(compressor, layout, value, reference, message)
    tables, key = _tables(compressor, layout, value.device), signed_key(message)
    launch(
        _encode,
        tables.segments.num_programs,
        value,
        reference,
        message.payload,
        tables.tensors,
        tables.scales,
        _drawn(tables, [key]),
        key,
        tables.segments.rows,
        NUM_WORDS=NUM_WORDS,
        ENTRIES=ENTRIES,
    )


def accumulate(
    compressor: RandomK,
    layout: Layout,
    messages: Sequence[Message],
    targets: Sequence[torch.Tensor],
    weights: Sequence[Sequence[float]],
) -> None:
    """As `RandomK.accumulate`, on the GPU: message after message, as two may hold an entry."""
    columns = check_sum(compressor, layout, messages, targets, weights)
    tables = _tables(compressor, layout, targets[0].device)
    used = [m for m, column in enumerate(columns) if any(column)]
    keys = [signed_key(messages[m]) for m in used]
    for m, key, drawn in zip(used, keys, _drawn(tables, keys), strict=True):
        launch(
            _accumulate,
            tables.segments.num_programs,
            *weighted(targets, columns[m]),
            messages[m].payload,
            tables.tensors,
            drawn,
            key,
            tables.segments.rows,
            NUM_WORDS=NUM_WORDS,
            ENTRIES=ENTRIES,
        )
