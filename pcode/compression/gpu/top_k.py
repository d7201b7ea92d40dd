"""The top-k compressor on a GPU; `pcode.compression.top_k` describes the message.

Of equal magnitudes those at the lowest positions are kept: the bytes are those of the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from pcode.compression.base import Message
from pcode.compression.gpu import elias_fano, sample, selection
from pcode.compression.gpu.memory import (
    SEGMENT_ENTRIES,
    Segments,
    check_inputs,
    check_sum,
    launch,
    launch_on_segments,
    segments_of,
)
from pcode.compression.gpu.sample import SAMPLE
from pcode.compression.kept import kept_of
from pcode.compression.top_k import TopK
from pcode.utils.layout import Layout


class _Plan(NamedTuple):
    """What follows from a layout and a ratio, on the device.

    Attributes:
        tensors: a row for each tensor, by the columns of `selection`.
        rooms: before each segment and in all, the candidates that there is room for.
        num_listed, num_candidates: the room in all.
    """

    segments: Segments
    tensors: torch.Tensor
    rooms: torch.Tensor
    num_listed: int
    num_candidates: int


@lru_cache(maxsize=64)
def _plan(layout: Layout, compress_ratio: float, device: torch.device) -> _Plan:
    rows, rooms, num_listed, num_kept, num_candidates = [], [0], 0, 0, 0
    for offset, size, kept in zip(
        layout.offsets, layout.sizes, kept_of(layout, compress_ratio), strict=True
    ):
        above, below = sample.ranks_of(size, kept)
        # Twice what is expected: tensors and segments differ.
        share = min(1.0, 2 * below / SAMPLE) if below else 1.0
        within = min(1.0, 2 * (below - above) / SAMPLE) if below else 1.0
        room = math.ceil(within * size)
        rows.append((offset, size, kept, num_kept, above, below, num_listed, room))
        num_kept += kept
        num_listed += room
        for start in range(0, size, SEGMENT_ENTRIES):
            num_candidates += math.ceil(share * min(SEGMENT_ENTRIES, size - start))
            rooms.append(num_candidates)
    table = np.array(rows, dtype=np.int64).reshape(-1, selection.COLUMNS.value)
    return _Plan(
        segments_of(layout, device),
        torch.from_numpy(table).to(device),
        torch.tensor(rooms, dtype=torch.int64, device=device),
        num_listed,
        num_candidates,
    )


def encode(
    compressor: TopK,
    layout: Layout,
    value: torch.Tensor,
    reference: torch.Tensor | None,
    message: Message,
) -> None:
    """As `TopK.encode`, on the GPU."""
    check_inputs(compressor, layout, value, reference, message)
    code = compressor.code(layout)
    plan = _plan(layout, compressor.compress_ratio, value.device)
    if code.num_positions == 0:
        return
    kept_positions = _select(plan, value, reference, message.payload, code.num_positions)
    elias_fano.encode(kept_positions, code, message.payload[4 * code.num_positions :])


def _select(
    plan: _Plan,
    value: torch.Tensor,
    reference: torch.Tensor | None,
    payload: torch.Tensor,
    num_kept: int,
) -> torch.Tensor:
    """Write the kept values into the payload and return their positions in the vector."""
    vectors, segments, device = (value, reference), plan.segments, value.device
    num_tensors, num_segments = len(plan.tensors), segments.num_programs
    int32, int64 = torch.int32, torch.int64
    brackets = torch.empty(num_tensors, 2, dtype=int32, device=device)
    launch(
        sample.bracket,
        num_tensors,
        *vectors,
        plan.tensors,
        brackets,
        SAMPLE=SAMPLE,
        TOGETHER=sample.TOGETHER,
        num_warps=16,
    )
    candidates = torch.empty(plan.num_candidates, device=device)
    positions = torch.empty(plan.num_candidates, dtype=torch.int16, device=device)
    counts = torch.empty(num_segments, dtype=int32, device=device)
    listed = torch.empty(plan.num_listed, dtype=int32, device=device)
    totals = torch.zeros(num_tensors, 2, dtype=int64, device=device)
    launch_on_segments(
        selection.collect,
        segments,
        *vectors,
        plan.tensors,
        brackets,
        segments.rows,
        plan.rooms,
        candidates,
        positions,
        counts,
        listed,
        totals,
    )
    thresholds = torch.empty(num_tensors, 2, dtype=int64, device=device)
    launch(
        selection.find_threshold,
        num_tensors,
        *vectors,
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
    form = {"ALIGNMENT": segments.alignment, "ENTRIES": selection.KEPT_ENTRIES}
    launch(
        selection.count_kept,
        num_segments,
        *vectors,
        brackets,
        segments.rows,
        plan.rooms,
        candidates,
        counts,
        thresholds,
        tallies,
        **form,
    )
    kept_positions = torch.empty(num_kept, dtype=int32, device=device)
    launch(
        selection.write_kept,
        num_segments,
        *vectors,
        plan.tensors,
        brackets,
        segments.rows,
        segments.firsts,
        plan.rooms,
        candidates,
        positions,
        counts,
        thresholds,
        tallies,
        tallies.cumsum(1),
        payload,
        kept_positions,
        **form,
    )
    return kept_positions


def accumulate(
    compressor: TopK,
    layout: Layout,
    messages: Sequence[Message],
    targets: Sequence[torch.Tensor],
    weights: Sequence[Sequence[float]],
) -> None:
    """As `TopK.accumulate`, on the GPU."""
    columns = check_sum(compressor, layout, messages, targets, weights)
    used = [m for m, column in enumerate(columns) if any(column)]
    elias_fano.accumulate(
        compressor.code(layout),
        layout.num_entries,
        [messages[m].payload for m in used],
        targets,
        [columns[m] for m in used],
    )
