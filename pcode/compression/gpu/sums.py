"""The sum over each tensor, of what its segments sum to."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

# Segments whose sums are added at a time.
SUMS = 512


@triton.jit
def sum_of_tensor(firsts: tl.tensor, sums: tl.tensor, SUMS: tl.constexpr) -> Any:
    """The float64 sum of the tensor that this program's number is, always in the same order.

    Args:
        firsts: the number of each tensor's first segment, and of all.
        sums: of each segment.
    """
    tensor = tl.program_id(0)
    last = tl.load(firsts + tensor + 1)
    total = tl.zeros([SUMS], tl.float64)
    for start in range(tl.load(firsts + tensor), last, SUMS):
        numbers = start + tl.arange(0, SUMS)
        total += tl.load(sums + numbers, mask=numbers < last, other=0.0)
    return tl.sum(total, axis=0)
