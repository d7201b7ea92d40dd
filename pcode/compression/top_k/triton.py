"""GPU kernels of the top-k compressor, which describes the message.

Of equal magnitudes those at the lowest positions are selected: the bytes are those of the CPU.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from pcode.compression.base import Difference, Message, WeightedSum
from pcode.compression.kernels.cpu.elias_fano import Code
from pcode.compression.kernels.gpu import elias_fano
from pcode.compression.kernels.gpu.launch import (
    SEGMENT_ENTRIES,
    SEGMENT_WARPS,
    Segments,
    check_alignment,
    launch,
    segments_of,
)
from pcode.compression.top_k import triton_sample as sample
from pcode.compression.top_k import triton_selection as selection
from pcode.compression.top_k.triton_sample import SAMPLE
from pcode.utils.layout import Layout


class _Plan(NamedTuple):
    """What follows from a layout and a ratio, on the device.

    Attributes:
        tensors: a row for each tensor, by the columns of `selection`.
        begins: before each segment and in all, the candidates that there is space for.
        num_listed, num_candidates: the room in all.
    """

    segments: Segments
    tensors: torch.Tensor
    begins: torch.Tensor
    num_listed: int
    num_candidates: int


@lru_cache(maxsize=64)
def _plan(layout: Layout, num_selected: tuple[int, ...], device: torch.device) -> _Plan:
    rows, begins, num_listed, before, num_candidates = [], [0], 0, 0, 0
    for offset, size, selected in zip(layout.offsets, layout.sizes, num_selected, strict=True):
        above, below = sample.ranks_of(size, selected)
        # Twice what is expected: tensors and segments differ.
        share = min(1.0, 2 * below / SAMPLE) if below else 1.0
        within = min(1.0, 2 * (below - above) / SAMPLE) if below else 1.0
        room = math.ceil(within * size)
        rows.append((offset, size, selected, before, above, below, num_listed, room))
        before += selected
        num_listed += room
        for start in range(0, size, SEGMENT_ENTRIES):
            num_candidates += math.ceil(share * min(SEGMENT_ENTRIES, size - start))
            begins.append(num_candidates)
    table = np.array(rows, dtype=np.int64).reshape(-1, selection.COLUMNS.value)
    return _Plan(
        segments_of(layout.sizes, device),
        torch.from_numpy(table).to(device),
        torch.tensor(begins, dtype=torch.int64, device=device),
        num_listed,
        num_candidates,
    )


def encode(
    layout: Layout,
    difference: Difference,
    message: Message,
    num_selected: tuple[int, ...],
    code: Code,
) -> None:
    check_alignment([message])
    if code.num_positions > 0:
        plan = _plan(layout, num_selected, difference.value.device)
        positions = _select(plan, difference, message.payload, code.num_positions)
        elias_fano.encode(positions, code, message.payload[4 * code.num_positions :])


def _select(
    plan: _Plan, difference: Difference, payload: torch.Tensor, num_selected: int
) -> torch.Tensor:
    """Write the selected values into the payload and return their positions in the vector."""
    segments, device = plan.segments, difference.value.device
    num_tensors, num_segments = len(plan.tensors), segments.num_programs
    int32, int64 = torch.int32, torch.int64
    brackets = torch.empty(num_tensors, 2, dtype=int32, device=device)
    launch(
        sample.bracket,
        num_tensors,
        *difference,
        plan.tensors,
        brackets,
        SAMPLE=SAMPLE,
        TOGETHER=sample.TOGETHER,
        num_warps=32,
    )
    candidates = torch.empty(plan.num_candidates, device=device)
    positions = torch.empty(plan.num_candidates, dtype=torch.int16, device=device)
    counts = torch.empty(num_segments, dtype=int32, device=device)
    listed = torch.empty(plan.num_listed, dtype=int32, device=device)
    totals = torch.zeros(num_tensors, 2, dtype=int64, device=device)
    launch(
        selection.collect,
        num_segments,
        *difference,
        plan.tensors,
        brackets,
        plan.begins,
        candidates,
        positions,
        counts,
        listed,
        totals,
        segments.rows,
        ENTRIES=SEGMENT_ENTRIES,
        num_warps=SEGMENT_WARPS,
    )
    thresholds = torch.empty(num_tensors, 2, dtype=int64, device=device)
    launch(
        selection.find_threshold,
        num_tensors,
        *difference,
        plan.tensors,
        brackets,
        listed,
        totals,
        thresholds,
        DIGIT_BITS=selection.DIGIT_BITS,
        ENTRIES=selection.THRESHOLD_ENTRIES,
        num_warps=16,
    )
    tallies = torch.empty(2, num_segments, dtype=int64, device=device)
    launch(
        selection.count_selected,
        num_segments,
        *difference,
        brackets,
        segments.rows,
        plan.begins,
        candidates,
        counts,
        thresholds,
        tallies,
        ENTRIES=selection.SELECTED_ENTRIES,
    )
    selected = torch.empty(num_selected, dtype=int32, device=device)
    launch(
        selection.write_selected,
        num_segments,
        *difference,
        plan.tensors,
        brackets,
        segments.rows,
        segments.firsts,
        plan.begins,
        candidates,
        positions,
        counts,
        thresholds,
        tallies,
        tallies.cumsum(1),
        payload,
        selected,
        ENTRIES=selection.SELECTED_ENTRIES,
    )
    return selected


def accumulate(
    layout: Layout, added: WeightedSum, num_selected: tuple[int, ...], code: Code
) -> None:
    elias_fano.accumulate(code, layout.num_entries, added)
