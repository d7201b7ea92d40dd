"""Top-k's selection by torch's operations alone: what the kernels are measured against.

It gives the same bits. All entries are sorted at once, tensor by tensor, so that its operations do
not depend on how many tensors there are. A sort reads and writes them once for each digit of the
keys, and puts more than 32 bytes an entry aside.
"""

from __future__ import annotations

import torch

from pcode.compression.base import Difference
from pcode.compression.top_k.triton import _Plan
from pcode.compression.top_k.triton_selection import OFFSET, SELECTED, SIZE

LARGEST = 0x7FFFFFFF


def select(
    plan: _Plan, difference: Difference, payload: torch.Tensor, num_selected: int
) -> torch.Tensor:
    """Do as `pcode.compression.top_k.triton._select`."""
    columns = (plan.tensors[:, column.value] for column in (OFFSET, SIZE, SELECTED))
    offsets, sizes, counts = columns
    value, reference = difference
    entries = value if reference is None else value - reference
    numbers = torch.arange(len(sizes), device=value.device)
    tensor_of = numbers.repeat_interleave(sizes, output_size=len(value))
    # Large magnitudes come first, and of equal ones those at low positions.
    keys = (tensor_of << 31) + (LARGEST - (entries.view(torch.int32) & LARGEST))
    order = keys.sort(stable=True).indices
    owner = numbers.repeat_interleave(counts, output_size=num_selected)
    first = offsets - (counts.cumsum(0) - counts)
    places = first[owner] + torch.arange(num_selected, device=value.device)
    selected = order[places].sort().values
    payload[: 4 * num_selected].view(torch.float32).copy_(entries[selected])
    return selected.to(torch.int32)
