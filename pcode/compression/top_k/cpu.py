"""CPU kernels of the top-k compressor, which describes the message.

A threshold estimated from a sample lets one pass over the memory find a few more candidates than
are selected; the exact threshold is then chosen among those. Where the sample misled, the tensor is
read again instead: slower, as exact.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pcode.compression.base import Difference, Message, WeightedSum
from pcode.compression.kernels.cpu import elias_fano
from pcode.compression.kernels.cpu.blocks import INFINITY_BITS, MAGNITUDE_BITS
from pcode.compression.kernels.cpu.cache import kernel
from pcode.compression.kernels.cpu.elias_fano import Code
from pcode.compression.kernels.cpu.memory import (
    Addresses,
    Bytes,
    Ints,
    Words,
    addresses_of,
    addresses_of_sum,
)
from pcode.compression.kernels.cpu.parallel import run, run_segments, segments_of
from pcode.compression.top_k.candidates import Candidates, collect_range, read_candidates
from pcode.compression.top_k.threshold import (
    SELECTED,
    SELECTED_BEFORE,
    TOGETHER,
    estimate_bracket,
    select_threshold,
)
from pcode.utils.errors import NotFiniteError
from pcode.utils.layout import Layout

# Tensors of more entries than this get a sample, of at least so many groups of entries and of one
# group in so many.
SAMPLED_ABOVE = 1 << 13
LEAST_GROUPS = 128
GROUPS_PER_SAMPLED = 128


@kernel
def _collect(
    difference: Addresses,
    tensors: Ints,
    room: Ints,
    candidates: Candidates,
    brackets: Ints,
    is_finite: NDArray[np.bool_],
    segments: Ints,
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
        tensor, offset, start, size = segments[segment]
        if segment == first or start == 0:
            brackets[tensor] = estimate_bracket(difference, tensors[tensor], segments)
        number, largest = collect_range(
            difference, offset + start, size, brackets[tensor, 0], candidates, at, end
        )
        if largest >= INFINITY_BITS:
            is_finite[tensor] = False
        fits = number <= end - at
        candidates.spans[segment, 0] = at
        candidates.spans[segment, 1] = number if fits else -1
        if fits:
            at += number


@kernel
def _append(
    bits: NDArray[np.int32],
    positions: Words,
    threshold: int,
    ties: int,
    at: int,
    stop: int,
    values: NDArray[np.int32],
    selected: Words,
) -> tuple[int, int]:
    """Append to values and selected what is above the threshold, and so many of what equals it.

    Returns the ties that are left, and where to go on.

    Args:
        at, stop: where to append, and where all that is selected of the tensor ends.
    """
    for each, position in zip(bits, positions):  # noqa: B905  # Numba knows no strict
        magnitude = each & MAGNITUDE_BITS
        if magnitude == threshold:
            if ties == 0:
                continue
            ties -= 1
            magnitude += 1
        # Whether it is selected nothing could foresee: it is written in any case, perhaps over.
        if at < stop:
            values[np.uint64(at)] = each
            selected[np.uint64(at)] = position
        at += magnitude > threshold
    return ties, at


@kernel
def _select(
    difference: Addresses,
    tensors: Ints,
    candidates: Candidates,
    brackets: Ints,
    payload: Bytes,
    selected: Words,
    segments: Ints,
    first: int,
    last: int,
) -> None:
    """Select from the tensors that begin in segments first to last - 1.

    Args:
        payload: begins with the values, to be written.
        selected: their positions in the vector, to be written.
    """
    longest = segments[:, 3].max() if first < last else 0
    spare = Candidates(
        np.empty(longest, dtype=np.int32), np.empty(longest, dtype=np.uint32), candidates.spans
    )
    values = payload[: 4 * selected.size].view(np.int32)
    for begin in range(first, last):
        tensor, _, start, _ = segments[begin]
        if start > 0:
            continue
        end = begin + 1
        while end < segments.shape[0] and segments[end, 0] == tensor:
            end += 1
        own_segments = segments[begin:end]
        own = Candidates(candidates.bits, candidates.positions, candidates.spans[begin:end])
        at, wanted = tensors[tensor, SELECTED_BEFORE], tensors[tensor, SELECTED]
        stop = at + wanted
        threshold, ties = select_threshold(
            difference, own_segments, wanted, brackets[tensor], own, spare
        )
        for segment in range(end - begin):
            if at < stop:
                bits, positions = read_candidates(
                    difference, own_segments, segment, threshold, own, spare
                )
                ties, at = _append(bits, positions, threshold, ties, at, stop, values, selected)


def _sample(size: int, num_selected: int) -> tuple[int, int, int]:
    """Count a tensor's sampled groups, and find two ranks that almost always enclose the threshold.

    They are four standard deviations from the rank of the last selected entry, and a bit more, as
    the entries of a group may be alike. 0 stands for a rank that the sample does not have.
    """
    if size <= SAMPLED_ABOVE:
        return 0, 0, 0
    num_groups = max(LEAST_GROUPS, size // (TOGETHER * GROUPS_PER_SAMPLED))
    num_sampled = TOGETHER * num_groups
    expected = num_sampled * num_selected / size
    margin = 4 * math.sqrt(expected) + TOGETHER
    below = int(expected + margin)
    return num_groups, max(0, int(expected - margin)), below if below < num_sampled else 0


@lru_cache(maxsize=64)
def _tables(layout: Layout, num_selected: tuple[int, ...]) -> tuple[Ints, Ints]:
    """Return a row for each tensor, by the columns of the kernels.

    Also the candidates that there is room for before each segment, and in all.
    """
    rows, shares, before = [], [], 0
    for offset, size, selected in zip(layout.offsets, layout.sizes, num_selected, strict=True):
        num_groups, above, below = _sample(size, selected)
        rows.append((offset, size, selected, before, num_groups, above, below))
        # Twice what is expected: segments differ.
        shares.append(min(1.0, 2 * below / (TOGETHER * num_groups)) if below else 1.0)
        before += selected
    segments = segments_of(layout.sizes)
    in_segments = np.ceil(np.array(shares)[segments[:, 0]] * segments[:, 3])
    room = np.concatenate([[0], np.cumsum(in_segments)]).astype(np.int64)
    return np.array(rows, dtype=np.int64).reshape(-1, 7), room


def encode(
    layout: Layout,
    difference: Difference,
    message: Message,
    num_selected: tuple[int, ...],
    code: Code,
) -> None:
    vectors = addresses_of(difference)
    payload = message.payload.numpy()
    tensors, room = _tables(layout, num_selected)
    candidates = Candidates(
        np.empty(room[-1], dtype=np.int32),
        np.empty(room[-1], dtype=np.uint32),
        np.empty((len(room) - 1, 2), dtype=np.int64),
    )
    brackets = np.empty((layout.num_tensors, 2), dtype=np.int64)
    is_finite = np.ones(layout.num_tensors, dtype=np.bool_)
    found = candidates, brackets
    run_segments(_collect, layout.sizes, vectors, tensors, room, *found, is_finite)
    if not is_finite.all():
        raise NotFiniteError(layout.names[int(is_finite.argmin())])
    selected = np.empty(code.num_positions, dtype=np.uint32)
    run_segments(_select, layout.sizes, vectors, tensors, *found, payload, selected)
    packed = payload[4 * code.num_positions :]
    run(elias_fano.encode, code.num_chunks, selected, code, packed)


def accumulate(
    layout: Layout, added: WeightedSum, num_selected: tuple[int, ...], code: Code
) -> None:
    run_segments(elias_fano.accumulate, layout.sizes, *addresses_of_sum(added), code)
