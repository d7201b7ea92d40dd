"""The sample of each tensor, on a GPU, from which it is known about where its threshold lies.

Entries that lie together are taken from each of equal parts of a tensor, at a place in it that is
drawn once and for all: places at equal distances would often be the same ones of every row.
"""

import math
from typing import Any

import triton
import triton.language as tl

from pcode.compression.kernels.gpu.blocks import word_of
from pcode.compression.top_k.triton_selection import (
    COLUMNS,
    OFFSET,
    RANK_ABOVE,
    RANK_BELOW,
    SIZE,
    magnitudes_of,
)

# Entries of a sample, of which so many lie together: 32 bytes, the least that memory gives.
SAMPLE = 1 << 14
TOGETHER = 8


def ranks_of(size: int, num_selected: int) -> tuple[int, int]:
    """Return two ranks in a tensor's sample that almost always enclose the threshold.

    They are four standard deviations from the rank of the last selected entry, and a bit more, as
    entries that lie together may be alike. 0 stands for a rank that the sample does not have.
    """
    if size <= SAMPLE:
        return 0, 0
    expected = SAMPLE * num_selected / size
    margin = 4 * math.sqrt(expected) + 2 * TOGETHER
    above, below = max(0, int(expected - margin)), int(expected + margin)
    return (above, below) if below < SAMPLE else (0, 0)


@triton.jit
def _of_rank(magnitudes: tl.tensor, rank: tl.tensor) -> Any:
    """Return the magnitude of that rank, 1 for the largest: bit by bit from the highest."""
    found = tl.full([], 0, tl.int32)
    for step in range(31):
        trial = found | (1 << (30 - step))
        num_reaching = tl.sum((magnitudes >= trial).to(tl.int32), axis=0)
        found = tl.where(num_reaching >= rank, trial, found)
    return found


@triton.jit
def _places(
    numbers: tl.tensor, size: tl.tensor, SAMPLE: tl.constexpr, TOGETHER: tl.constexpr
) -> Any:
    """Return where in a tensor the sample's entries of these numbers are."""
    # In 32 bits, as positions in a vector are: Triton 3.6 has no registers for twice as many.
    part, within = (numbers // TOGETHER).to(tl.uint32), (numbers % TOGETHER).to(tl.uint32)
    stride = (size // (SAMPLE // TOGETHER)).to(tl.uint32)
    place = part * stride + word_of(tl.full([], 0, tl.int64), part) % stride
    # The parts together are a multiple of TOGETHER, so that this stays within them.
    return place // TOGETHER * TOGETHER + within


@triton.jit
def bracket(
    value: tl.tensor,
    reference: tl.tensor,
    tensors: tl.tensor,
    brackets: tl.tensor,
    SAMPLE: tl.constexpr,
    TOGETHER: tl.constexpr,
) -> None:
    """Write the lowest and the highest magnitude that the threshold of a tensor may well have.

    Zeros are never within: there may be many, and they are selected last.
    """
    row = tensors + COLUMNS * tl.program_id(0)
    below, above = tl.load(row + RANK_BELOW), tl.load(row + RANK_ABOVE)
    lowest, highest = tl.full([], 1, tl.int32), tl.full([], 0x7FFFFFFF, tl.int32)
    if below > 0:
        numbers = tl.arange(0, SAMPLE)
        places = _places(numbers, tl.load(row + SIZE), SAMPLE, TOGETHER)
        entries = tl.load(value + tl.load(row + OFFSET) + places)
        if reference is not None:
            entries -= tl.load(reference + tl.load(row + OFFSET) + places)
        sample = magnitudes_of(entries)
        lowest = tl.maximum(_of_rank(sample, below), lowest)
        if above > 0:
            highest = tl.maximum(_of_rank(sample, above), lowest)
    tl.store(brackets + 2 * tl.program_id(0), lowest)
    tl.store(brackets + 2 * tl.program_id(0) + 1, highest)
