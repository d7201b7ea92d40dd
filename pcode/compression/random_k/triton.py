"""GPU kernels of the random-k compressor, which describes the message.

Positions are drawn on the GPU. In long tensors each is found by itself, as on the CPU; those of
short tensors come from `pcode.compression.random_k.triton_shuffle`.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from pcode.compression.base import Difference, Message, WeightedSum
from pcode.compression.kernels.gpu.accumulate import add_at, weighted
from pcode.compression.kernels.gpu.blocks import difference, floats_at, segment_of, word_of
from pcode.compression.kernels.gpu.launch import (
    Segments,
    check_alignment,
    launch,
    segments_of,
    signed_key,
    with_weights,
)
from pcode.compression.random_k.draw import NUM_WORDS, SHUFFLED_ENTRIES, scales_of
from pcode.compression.random_k.triton_shuffle import Shuffled, draw, shuffled_of
from pcode.utils.layout import Layout

# Selected entries of a program: few, as each waits for a read of its own.
ENTRIES = 1024


class _Tables(NamedTuple):
    """What follows from a layout and the entries selected, on the device.

    Attributes:
        tensors: num_tensors x 4 int64: offset in the vector, entries, bits of their numbers, and
            where a shuffled tensor's positions begin among those of all such tensors, else -1.
        scales: what the selected entries of each tensor are multiplied by.
        segments: of the selected entries.
        shuffled: those of tensors that are shuffled.
    """

    tensors: torch.Tensor
    scales: torch.Tensor
    segments: Segments
    shuffled: Shuffled


@lru_cache(maxsize=64)
def _tables(
    layout: Layout, selected: tuple[int, ...], is_biased: bool, device: torch.device
) -> _Tables:
    rows, shuffled, place = [], [], 0
    for tensor, (offset, size) in enumerate(zip(layout.offsets, layout.sizes, strict=True)):
        is_short = size <= SHUFFLED_ENTRIES
        rows.append((offset, size, max(size - 1, 0).bit_length(), place if is_short else -1))
        if is_short and size > 0:
            shuffled.append((tensor, selected[tensor]))
            place += selected[tensor]
    return _Tables(
        torch.tensor(rows, dtype=torch.int64, device=device).view(-1, 4),
        torch.from_numpy(scales_of(layout.sizes, selected, is_biased)).to(device),
        segments_of(selected, device, ENTRIES),
        shuffled_of(shuffled, device),
    )


@triton.jit
def _folded(
    x: tl.tensor, word: tl.tensor, factor: tl.tensor, mask: tl.tensor, shift: tl.tensor
) -> Any:
    """Do a round of the permutation: add, multiply modulo a power of two, fold."""
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
    """Return where in the vector the selected entries of these numbers of a tensor are."""
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


@triton.jit
def _entries_of_program(
    tensors: tl.tensor,
    drawn: tl.tensor,
    key: tl.tensor,
    segments: tl.tensor,
    NUM_WORDS: tl.constexpr,
    ENTRIES: tl.constexpr,
) -> Any:
    """Find this program's tensor, and where each entry is in a message and in the vector."""
    tensor, first, start, count = segment_of(segments, 1)
    entries = tl.arange(0, ENTRIES)
    inside = entries < count
    places = _places(tensors, drawn, key, tensor, start + entries, inside, NUM_WORDS)
    return tensor, first + entries, places, inside


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
    tensor, numbers, places, inside = _entries_of_program(
        tensors, drawn, key, segments, NUM_WORDS, ENTRIES
    )
    result = tl.load(scales + tensor) * difference(value, reference, places, inside)
    tl.store(floats_at(payload) + numbers, result, mask=inside)


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
    _, numbers, places, inside = _entries_of_program(
        tensors, drawn, key, segments, NUM_WORDS, ENTRIES
    )
    values = tl.load(floats_at(payload) + numbers, mask=inside)
    add_at(targets, weights, places, inside, values)


def encode(
    layout: Layout,
    difference: Difference,
    message: Message,
    selected: tuple[int, ...],
    is_biased: bool,
) -> None:
    check_alignment([message])
    tables = _tables(layout, selected, is_biased, difference.value.device)
    key = signed_key(message)
    launch(
        _encode,
        tables.segments.num_programs,
        *difference,
        message.payload,
        tables.tensors,
        tables.scales,
        draw(tables.shuffled, tables.tensors, [key]),
        key,
        tables.segments.rows,
        NUM_WORDS=NUM_WORDS,
        ENTRIES=ENTRIES,
    )


def accumulate(
    layout: Layout, added: WeightedSum, selected: tuple[int, ...], is_biased: bool
) -> None:
    """Message after message, as two may hold an entry."""
    targets, used = added.targets, with_weights(added)
    tables = _tables(layout, selected, is_biased, targets[0].device)
    keys = [signed_key(message) for message, _ in used]
    drawn = draw(tables.shuffled, tables.tensors, keys)
    for (message, column), key, positions in zip(used, keys, drawn, strict=True):
        launch(
            _accumulate,
            tables.segments.num_programs,
            *weighted(targets, column),
            message.payload,
            tables.tensors,
            positions,
            key,
            tables.segments.rows,
            NUM_WORDS=NUM_WORDS,
            ENTRIES=ENTRIES,
        )
