"""GPU kernels of Elias-Fano codes; `pcode.compression.kernels.cpu.elias_fano` describes the code.

Eight positions fill as many bytes of low bits as a position has low bits, so that a program that
takes positions by eight shares none with another. High bits are set in zeroed words beside the
message, which begins them at any byte: those of eight positions, which are mostly in two words,
together.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from pcode.compression.base import WeightedSum
from pcode.compression.kernels.cpu.elias_fano import Code
from pcode.compression.kernels.gpu.accumulate import add_at, weighted
from pcode.compression.kernels.gpu.blocks import floats_at, rows_of
from pcode.compression.kernels.gpu.launch import SEGMENT_WARPS, batches, launch, with_weights

# Positions that a program encodes, and high bits that one decodes.
ENTRIES = 1024
BITS = 4096


@triton.jit
def _encode(
    positions: tl.tensor,
    num_positions: tl.tensor,
    low: tl.tensor,
    low_bytes: tl.tensor,
    words: tl.tensor,
    LOW_BITS: tl.constexpr,
    ENTRIES: tl.constexpr,
) -> None:
    rows, columns, entries = rows_of(ENTRIES)
    start = tl.program_id(0).to(tl.int64) * ENTRIES
    numbers = start + entries
    inside = numbers < num_positions
    found = tl.load(positions + numbers, mask=inside, other=0).to(tl.int64) & 0xFFFFFFFF

    low_bits = found & ((1 << LOW_BITS) - 1)
    for byte in tl.static_range(LOW_BITS):
        # Where the bits of each position begin, seen from this byte.
        place = columns * LOW_BITS - 8 * byte
        left = tl.minimum(tl.maximum(place, 0), 8)
        right = tl.minimum(tl.maximum(-place, 0), 63)
        parts = ((low_bits << left) >> right) & 0xFF
        to = (start // 8 + rows) * LOW_BITS + byte
        found_byte = tl.sum(parts, axis=1, keep_dims=True).to(tl.uint8)
        tl.store(low + to, found_byte, mask=to < low_bytes)

    bit = (found >> LOW_BITS) + numbers
    word, one = bit >> 5, (tl.full([], 1, tl.int64) << (bit & 31))
    first = tl.min(tl.where(inside, word, 1 << 40), axis=1, keep_dims=True)
    for number in tl.static_range(2):
        together = tl.where(inside & (word == first + number), one, 0)
        ones = tl.sum(together, axis=1, keep_dims=True)
        tl.atomic_or(words + first + number, ones.to(tl.int32), mask=ones != 0, sem="relaxed")
    far = inside & (word > first + 1)
    tl.atomic_or(words + word, one.to(tl.int32), mask=far, sem="relaxed")


@triton.jit
def _bits_of(
    code: tl.tensor, low_bytes: tl.tensor, high_bytes: tl.tensor, BITS: tl.constexpr
) -> Any:
    """Return the numbers of this program's high bits, and whether each is one."""
    bits = tl.program_id(0).to(tl.int64) * BITS + tl.arange(0, BITS)
    byte = tl.load(code + low_bytes + bits // 8, mask=bits // 8 < high_bytes, other=0)
    return bits, (byte.to(tl.int32) >> (bits % 8).to(tl.int32)) & 1


@triton.jit
def _count_ones(
    codes: tl.tuple,
    low_bytes: tl.tensor,
    high_bytes: tl.tensor,
    counts: tl.tensor,
    BITS: tl.constexpr,
) -> None:
    """Write the ones among this program's high bits of each message: messages x programs."""
    for m in tl.static_range(len(codes)):
        _, ones = _bits_of(codes[m], low_bytes, high_bytes, BITS)
        to = counts + m * tl.num_programs(0) + tl.program_id(0)
        tl.store(to, tl.sum(ones, axis=0).to(tl.int64))


@triton.jit
def _add_decoded(
    targets: tl.tuple,
    weights: tl.tuple,
    values: tl.tensor,
    code: tl.tensor,
    num_entries: tl.tensor,
    num_positions: tl.tensor,
    low_bytes: tl.tensor,
    high_bytes: tl.tensor,
    counts: tl.tensor,
    sums: tl.tensor,
    LOW_BITS: tl.constexpr,
    BITS: tl.constexpr,
) -> None:
    """Add the values whose high bits this program has, at their positions.

    Whatever the bytes are, nothing is read but the message, nor written but the targets.

    Args:
        counts: of the ones among each program's high bits.
        sums: of the counts, up to each program and with it.
    """
    bits, ones = _bits_of(code, low_bytes, high_bytes, BITS)
    before = tl.load(sums + tl.program_id(0)) - tl.load(counts + tl.program_id(0))
    numbers = before + tl.cumsum(ones, axis=0) - ones
    inside = (ones != 0) & (numbers < num_positions)
    low = tl.zeros([BITS], tl.int64)
    if LOW_BITS > 0:
        for byte in tl.static_range((LOW_BITS + 14) // 8):
            at = numbers * LOW_BITS // 8 + byte
            part = tl.load(code + at, mask=inside & (at < low_bytes), other=0)
            low |= part.to(tl.int64) << (8 * byte)
        low = (low >> (numbers * LOW_BITS % 8)) & ((1 << LOW_BITS) - 1)
    places = ((bits - numbers) << LOW_BITS) | low
    inside &= places < num_entries
    found = tl.load(floats_at(values) + numbers, mask=inside, other=0.0)
    add_at(targets, weights, places, inside, found)


def encode(positions: torch.Tensor, code: Code, to: torch.Tensor) -> None:
    """Write the code of ascending positions, on the GPU.

    Args:
        positions: code.num_positions int32 with the bits of unsigned numbers.
        to: uint8 of code.num_bytes, at any byte.
    """
    num_words = (code.high_bytes + 3) // 4
    words = torch.zeros(num_words, dtype=torch.int32, device=positions.device)
    launch(
        _encode,
        triton.cdiv(code.num_positions, ENTRIES),
        positions,
        code.num_positions,
        to,
        code.low_bytes,
        words,
        LOW_BITS=code.low_bits,
        ENTRIES=ENTRIES,
    )
    to[code.low_bytes :].copy_(words.view(torch.uint8)[: code.high_bytes])


def accumulate(code: Code, num_entries: int, added: WeightedSum) -> None:
    """Add messages of values and the code of their positions: one after another, on the GPU."""
    targets, used = added.targets, with_weights(added)
    if not used:
        return
    codes = [message.payload[4 * code.num_positions :] for message, _ in used]
    num_programs = triton.cdiv(8 * code.high_bytes, BITS)
    parts = code.low_bytes, code.high_bytes
    counts = torch.empty(len(codes), num_programs, dtype=torch.int64, device=targets[0].device)
    for part in batches(len(codes)):
        launch(
            _count_ones,
            num_programs,
            tuple(codes[part]),
            *parts,
            counts[part],
            BITS=BITS,
            num_warps=SEGMENT_WARPS,
        )
    sums = counts.cumsum(1)
    for m, (message, column) in enumerate(used):
        launch(
            _add_decoded,
            num_programs,
            *weighted(targets, column),
            message.payload,
            codes[m],
            num_entries,
            code.num_positions,
            *parts,
            counts[m],
            sums[m],
            LOW_BITS=code.low_bits,
            BITS=BITS,
            num_warps=SEGMENT_WARPS,
        )
