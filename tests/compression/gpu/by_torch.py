"""Top-k's selection by torch's operations alone: what the kernels are measured against.

It gives the same bits. Three digits of each tensor's threshold are counted in one histogram for all
tensors, so that its operations do not depend on how many there are. It reads the vectors again for
each digit, and puts indices of 8 bytes an entry aside.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from pcode.compression.base import Difference
from pcode.compression.top_k.triton import _Plan
from pcode.compression.top_k.triton_selection import OFFSET, SELECTED, SIZE

# Of a magnitude's 31 bits, from the highest: how many follow, and how many are counted together.
DIGITS = ((20, 11), (10, 10), (0, 10))


def select(
    plan: _Plan, difference: Difference, payload: torch.Tensor, num_selected: int
) -> torch.Tensor:
    """Do as `pcode.compression.top_k.triton._select`."""
    columns = (plan.tensors[:, column.value] for column in (OFFSET, SIZE, SELECTED))
    offsets, sizes, rank = columns
    value, reference = difference
    entries = value if reference is None else value - reference
    magnitudes = entries.view(torch.int32) & 0x7FFFFFFF
    num_tensors, device = len(sizes), value.device
    numbers = torch.arange(num_tensors, device=device)
    tensor_of = numbers.repeat_interleave(sizes, output_size=len(value))
    threshold = torch.zeros_like(rank)
    for shift, bits in DIGITS:
        # Entries whose higher digits are not the threshold's go to a place of their own.
        is_counted = (magnitudes >> (shift + bits)) == threshold[tensor_of]
        places = (tensor_of << bits) + ((magnitudes >> shift) & ((1 << bits) - 1))
        counts = torch.zeros((num_tensors << bits) + 1, dtype=torch.int64, device=device)
        places = places.where(is_counted, num_tensors << bits)
        counts.index_add_(0, places, torch.ones_like(rank[:1]).expand(len(places)))
        # Entries of each digit and of larger ones.
        reaching = counts[:-1].view(num_tensors, -1).flip(1).cumsum(1).flip(1)
        digit = (reaching >= rank[:, None]).sum(1) - 1
        rank = rank - pad(reaching, (0, 1)).gather(1, digit[:, None] + 1).squeeze(1)
        threshold = (threshold << bits) | digit
    own = threshold[tensor_of]
    is_equal = magnitudes == own
    # Of those that are equal to the threshold the first `rank` of each tensor.
    equal_before = pad(is_equal.cumsum(0), (1, 0))
    is_early = equal_before[1:] - equal_before[offsets][tensor_of] <= rank[tensor_of]
    is_selected = (magnitudes > own) | (is_equal & is_early)
    to = (is_selected.cumsum(0) - 1).where(is_selected, num_selected)
    selected = torch.empty(num_selected + 1, dtype=torch.int64, device=device)
    selected.scatter_(0, to, torch.arange(len(value), device=device))
    selected = selected[:num_selected]
    payload[: 4 * num_selected].view(torch.float32).copy_(entries[selected])
    return selected.to(torch.int32)
