"""CPU kernels of the top-k compressor; `pcode.compression.top_k` describes the message.

A threshold estimated from a sample lets one pass over the memory find a few more candidates than
are kept; the exact threshold is then chosen among those. Where the sample misled, the tensor is
read again instead: slower, as exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pcode.compression.kernels.candidates import (
    ENTRIES,
    INFINITY_BITS,
    MAGNITUDE_BITS,
    START,
    TENSOR,
    Candidates,
    Difference,
    address,
    collect_range,
    read_candidates,
)
from pcode.compression.kernels.lanes import (
    LANES,
    broadcast_int,
    count,
    is_at_least,
    kernel,
    load,
    load_ints,
    magnitude_bits,
    store_float,
    store_selected,
    store_selected_ints,
)
from pcode.compression.kernels.threshold import (
    KEPT,
    KEPT_BEFORE,
    OFFSET,
    estimate_bracket,
    select_threshold,
)


@kernel
def collect(
    difference: Difference,
    tensors: NDArray[np.int64],
    room: NDArray[np.int64],
    candidates: Candidates,
    brackets: NDArray[np.int64],
    is_finite: NDArray[np.bool_],
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """Find the candidates of segments first to last - 1, reading value and reference once.

    Args:
        room: the candidates that there is room for before each segment, and in all.
        brackets: to be written, for each tensor.
        is_finite: set to False for tensors that are not.
    """
    at, end = room[first], room[last]
    for segment in range(first, last):
        tensor = segments[segment, TENSOR]
        if segment == first or segments[segment, START] == 0:
            brackets[tensor] = estimate_bracket(difference, tensors[tensor], segments)
        position = tensors[tensor, OFFSET] + segments[segment, START]
        number, top = collect_range(
            difference,
            position,
            segments[segment, ENTRIES],
            brackets[tensor, 0],
            candidates,
            at,
            end,
        )
        if top >= INFINITY_BITS:
            is_finite[tensor] = False
        fits = number <= end - at
        candidates.spans[segment, 0] = at
        candidates.spans[segment, 1] = number if fits else -1
        if fits:
            at += number


@kernel
def _keep_one_by_one(
    bits: NDArray[np.int32],
    positions: NDArray[np.uint32],
    threshold: int,
    ties: int,
    kept: int,
    values: int,
    kept_positions: NDArray[np.uint32],
) -> tuple[int, int]:
    """As `_keep`, for a few."""
    for each, position in zip(bits, positions):  # noqa: B905  # Numba knows no strict
        magnitude = each & MAGNITUDE_BITS
        if magnitude > threshold or (magnitude == threshold and ties > 0):
            ties -= magnitude == threshold
            store_float(values + 4 * kept, np.int32(each).view(np.float32))
            kept_positions[kept] = position
            kept += 1
    return ties, kept


@kernel
def _keep(
    bits: NDArray[np.int32],
    positions: NDArray[np.uint32],
    threshold: int,
    ties: int,
    kept: int,
    values: int,
    kept_positions: NDArray[np.uint32],
) -> tuple[int, int]:
    """Append what is above the threshold, and so many of what equals it.

    Returns the ties that are left, and the number of kept entries.

    Args:
        kept: the number of entries before, which is where to append.
        values: address of the message's values.
    """
    at_least = broadcast_int(np.int32(threshold))
    above = broadcast_int(np.int32(threshold + 1))
    whole = bits.size // LANES * LANES
    for start in range(0, whole, LANES):
        entries = load(address(bits) + 4 * start)
        magnitudes = magnitude_bits(entries)
        selected, larger_ones = is_at_least(magnitudes, at_least), is_at_least(magnitudes, above)
        found = count(selected)
        equal = found - count(larger_ones)
        if equal > ties:
            end = start + LANES
            ties, kept = _keep_one_by_one(
                bits[start:end], positions[start:end], threshold, ties, kept, values, kept_positions
            )
        elif found > 0:
            store_selected(values + 4 * kept, selected, entries)
            places = load_ints(address(positions) + 4 * start)
            store_selected_ints(address(kept_positions) + 4 * kept, selected, places)
            kept += found
            ties -= equal
    return _keep_one_by_one(
        bits[whole:], positions[whole:], threshold, ties, kept, values, kept_positions
    )


@kernel
def select(
    difference: Difference,
    tensors: NDArray[np.int64],
    candidates: Candidates,
    brackets: NDArray[np.int64],
    values: int,
    kept_positions: NDArray[np.uint32],
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """Choose what is kept of the tensors that begin in segments first to last - 1.

    Args:
        values: address of the message's values.
        kept_positions: to be written, of all tensors.
    """
    longest = segments[:, ENTRIES].max() if first < last else 0
    spare = Candidates(
        np.empty(longest + LANES, dtype=np.int32),
        np.empty(longest + LANES, dtype=np.uint32),
        candidates.spans,
    )
    for begin in range(first, last):
        if segments[begin, START] > 0:
            continue
        tensor = segments[begin, TENSOR]
        end = begin + 1
        while end < segments.shape[0] and segments[end, TENSOR] == tensor:
            end += 1
        own_segments = segments[begin:end]
        own = Candidates(candidates.bits, candidates.positions, candidates.spans[begin:end])
        kept, wanted = tensors[tensor, KEPT_BEFORE], tensors[tensor, KEPT]
        stop = kept + wanted
        threshold, ties = select_threshold(
            difference, own_segments, wanted, brackets[tensor], own, spare
        )
        for segment in range(end - begin):
            if kept < stop:
                bits, positions = read_candidates(
                    difference, own_segments, segment, threshold, own, spare
                )
                ties, kept = _keep(bits, positions, threshold, ties, kept, values, kept_positions)
