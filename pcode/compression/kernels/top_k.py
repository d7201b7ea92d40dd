"""CPU kernels of the top-k compressor; `pcode.compression.top_k` describes the message.

Magnitudes are compared as the integers that their bits are. A threshold estimated from a sample
lets one pass over the memory find a few more candidates than are kept; the exact threshold is then
chosen among those. Where the sample misled, the tensor is read again instead: slower, as exact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pcode.compression.kernels.elias_fano import Code, decode, find
from pcode.compression.kernels.lanes import (
    FLOATS_BYTES,
    LANES,
    add_ints,
    broadcast_int,
    count,
    is_at_least,
    kernel,
    lane_numbers,
    larger,
    largest,
    load,
    load_first,
    load_float,
    load_ints,
    magnitude_bits,
    store_float,
    store_selected,
    store_selected_ints,
    subtract,
)

INFINITY_BITS = 0x7F800000
MAGNITUDE_BITS = 0x7FFFFFFF
# A magnitude's 31 bits are searched in rounds: the lowest bit of each round and their number.
ROUNDS = ((20, 11), (10, 10), (0, 10))
# Numba compiles a function anew for each literal among its arguments.
NONE, ALL_LANES = np.int64(0), np.int64(LANES)
# Decoded positions that stay in the first-level cache while they are added to all targets.
BLOCK = 1024
# Columns of the table of tensors. SAMPLE_GROUPS groups of lanes are the sample; the threshold is
# expected between its entries of ranks RANK_ABOVE and RANK_BELOW, the largest having rank 1. With
# RANK_BELOW 0 every entry but zeros is a candidate, with RANK_ABOVE 0 the bracket has no end.
OFFSET, SIZE, KEPT, KEPT_BEFORE, SAMPLE_GROUPS, RANK_ABOVE, RANK_BELOW = range(7)
# Columns of the table of segments, as pcode.compression.parallel makes it.
TENSOR, START, ENTRIES = 0, 2, 3


class Difference(NamedTuple):
    """The vector to compress: addresses, and bytes from one entry of the reference to the next."""

    value: int
    reference: int
    reference_stride: int


class Candidates(NamedTuple):
    """Entries that may be kept, segment by segment, in the order of their positions.

    Attributes:
        bits: of the differences, as int32.
        positions: in the vector.
        spans: of each segment, the first of its candidates and their number; -1 where they are
            not at hand and have to be read again.
    """

    bits: NDArray[np.int32]
    positions: NDArray[np.uint32]
    spans: NDArray[np.int64]


@kernel
def _address(array: NDArray[Any]) -> int:
    # As a signed number: Numba adds signed and unsigned ones as float64.
    return int(np.int64(array.ctypes.data))


@kernel
def _collect(
    difference: Difference,
    position: int,
    num_entries: int,
    threshold: int,
    candidates: Candidates,
    begin: int,
    end: int,
) -> tuple[int, int]:
    """Put the entries of at least the threshold at begin, begin + 1, ... of the candidates.

    Returns their number, which is more than end - begin where only the first of them are stored,
    and the bits of the largest magnitude.

    Args:
        position: of the first entry.
    """
    value = difference.value + 4 * position
    reference = difference.reference + position * difference.reference_stride
    bits, positions = _address(candidates.bits), _address(candidates.positions)
    least, step = broadcast_int(np.int32(threshold)), broadcast_int(np.int32(LANES))
    places = add_ints(lane_numbers(), broadcast_int(np.int32(position)))
    top = broadcast_int(np.int32(0))
    at = begin
    for start in range(0, num_entries, LANES):
        rest = num_entries - start
        if rest >= LANES:
            entries = subtract(load(value), load(reference))
        else:
            entries = subtract(load_first(value, 4 * rest), load_first(reference, 4 * rest))
        magnitudes = magnitude_bits(entries)
        top = larger(top, magnitudes)
        selected = is_at_least(magnitudes, least)
        found = count(selected)
        if found > 0:
            if at + found <= end:
                store_selected(bits + 4 * at, selected, entries)
                store_selected_ints(positions + 4 * at, selected, places)
            at += found
        value += FLOATS_BYTES
        reference += LANES * difference.reference_stride
        places = add_ints(places, step)
    if threshold <= 0:
        # The lanes past the last entry are zeros, and the last to be found.
        at -= -num_entries % LANES
    return at - begin, largest(top)


@kernel
def _count_digits(
    bits: NDArray[np.int32], prefix: int, shift: int, width: int, histogram: NDArray[np.int64]
) -> None:
    """Count the digits (`width` bits from bit `shift`) of the magnitudes that begin with prefix."""
    mask = (1 << width) - 1
    for each in bits:
        digits = (each & MAGNITUDE_BITS) >> shift
        if digits >> width == prefix:
            histogram[digits & mask] += 1


@kernel
def _read(
    difference: Difference,
    segments: NDArray[np.int64],
    segment: int,
    threshold: int,
    candidates: Candidates,
    spare: Candidates,
) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
    """Bits and positions of a segment's candidates: of all that reach the threshold, at least."""
    begin, number = candidates.spans[segment]
    if number >= 0:
        return candidates.bits[begin : begin + number], candidates.positions[begin : begin + number]
    position = segments[segment, 1] + segments[segment, START]
    number, _ = _collect(
        difference, position, segments[segment, ENTRIES], threshold, spare, NONE, spare.bits.size
    )
    return spare.bits[:number], spare.positions[:number]


@kernel
def _threshold(
    difference: Difference,
    segments: NDArray[np.int64],
    rank: int,
    candidates: Candidates,
    spare: Candidates,
) -> tuple[int, int]:
    """The magnitude (its bits) of that rank in all segments, 1 for the largest.

    Also returns how many entries of just that magnitude are among the largest `rank` ones.
    """
    prefix = 0
    histogram = np.empty(1 << 11, dtype=np.int64)
    for shift, width in ROUNDS:
        histogram[:] = 0
        for segment in range(candidates.spans.shape[0]):
            least = prefix << (shift + width)
            bits, _ = _read(difference, segments, segment, least, candidates, spare)
            _count_digits(bits, prefix, shift, width, histogram)
        digit = (1 << width) - 1
        while rank > histogram[digit]:
            rank -= histogram[digit]
            digit -= 1
        prefix = (prefix << width) | digit
    return prefix, rank


@kernel
def _estimate(
    difference: Difference, tensor: NDArray[np.int64], segments: NDArray[np.int64]
) -> tuple[int, int]:
    """A bracket that probably holds the threshold: at least the first, less than the second."""
    if tensor[RANK_BELOW] == 0:
        return 1, INFINITY_BITS
    num_groups = tensor[SAMPLE_GROUPS]
    stride = tensor[SIZE] // (LANES * num_groups) * LANES
    size = LANES * num_groups
    sample = Candidates(
        np.empty(size, dtype=np.int32),
        np.empty(size, dtype=np.uint32),
        np.array([[0, size]], dtype=np.int64),
    )
    for group in range(num_groups):
        position = tensor[OFFSET] + group * stride
        _collect(difference, position, ALL_LANES, NONE, sample, LANES * group, size)
    bracket = np.array([1, INFINITY_BITS])
    for side, rank in enumerate((tensor[RANK_BELOW], tensor[RANK_ABOVE])):
        if rank > 0:
            bracket[side], _ = _threshold(difference, segments, rank, sample, sample)
    return max(bracket[0], 1), bracket[1]


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
            brackets[tensor] = _estimate(difference, tensors[tensor], segments)
        position = tensors[tensor, OFFSET] + segments[segment, START]
        number, top = _collect(
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
def _narrow(candidates: Candidates, size: int, limit: int) -> tuple[Candidates, int]:
    """The bits of those candidates that are less than the limit.

    Also returns the number of the others.

    Args:
        size: the number of all.
    """
    bits = np.empty(size, dtype=np.int32)
    below = broadcast_int(np.int32(limit - 1))
    found = 0
    for start, number in candidates.spans:
        whole = start + number // LANES * LANES
        for index in range(start, whole, LANES):
            entries = load_ints(_address(candidates.bits) + 4 * index)
            magnitudes = magnitude_bits(load(_address(candidates.bits) + 4 * index))
            selected = is_at_least(below, magnitudes)
            store_selected_ints(_address(bits) + 4 * found, selected, entries)
            found += count(selected)
        for index in range(whole, start + number):
            if candidates.bits[index] & MAGNITUDE_BITS < limit:
                bits[found] = candidates.bits[index]
                found += 1
    spans = np.array([[0, found]], dtype=np.int64)
    return Candidates(bits, candidates.positions, spans), size - found


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
        entries = load(_address(bits) + 4 * start)
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
            places = load_ints(_address(positions) + 4 * start)
            store_selected_ints(_address(kept_positions) + 4 * kept, selected, places)
            kept += found
            ties -= equal
    return _keep_one_by_one(
        bits[whole:], positions[whole:], threshold, ties, kept, values, kept_positions
    )


@kernel
def _select_threshold(
    difference: Difference,
    segments: NDArray[np.int64],
    wanted: int,
    bracket: NDArray[np.int64],
    candidates: Candidates,
    spare: Candidates,
) -> tuple[int, int]:
    """As `_threshold`, from the candidates, which are given up where they do not do."""
    are_at_hand = candidates.spans[:, 1].min() >= 0
    num_candidates = candidates.spans[:, 1].sum()
    if are_at_hand and num_candidates >= wanted:
        narrowed, num_above = _narrow(candidates, num_candidates, bracket[1])
        if num_above < wanted:
            candidates = narrowed
            wanted -= num_above
    else:
        candidates.spans[:, 1] = -1
        if are_at_hand and bracket[0] == 1:
            # All others are zeros.
            return 0, wanted - num_candidates
    return _threshold(difference, segments, wanted, candidates, spare)


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
        threshold, ties = _select_threshold(
            difference, own_segments, wanted, brackets[tensor], own, spare
        )
        for segment in range(end - begin):
            if kept < stop:
                bits, positions = _read(difference, own_segments, segment, threshold, own, spare)
                ties, kept = _keep(bits, positions, threshold, ties, kept, values, kept_positions)


@kernel
def _add_decoded(
    target: int,
    values: int,
    weight: np.float32,
    positions: NDArray[np.int64],
    begin: int,
    end: int,
) -> None:
    """target[position] += weight * value, for the positions from begin to end - 1."""
    for index in range(positions.size):
        position = positions[index]
        if begin <= position < end:
            place = target + 4 * position
            store_float(place, load_float(place) + weight * load_float(values + 4 * index))


@kernel
def accumulate(
    targets: NDArray[np.int64],
    payloads: NDArray[np.int64],
    weights: NDArray[np.float32],
    code: Code,
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """targets[k] += weights[k, m] * message m, in the entries of segments first to last - 1.

    Args:
        targets, payloads: addresses.
        weights: targets x messages; where it is 0 the message is left out.
    """
    if first == last:
        return
    begin = segments[first, 1] + segments[first, START]
    end = segments[last - 1, 1] + segments[last - 1, START] + segments[last - 1, ENTRIES]
    block = np.empty(BLOCK, dtype=np.int64)
    for m in range(payloads.size):
        if not weights[:, m].any():
            continue
        positions_code = payloads[m] + 4 * code.num_positions
        index, bit = find(code, positions_code, begin)
        more = True
        while more:
            number, bit = decode(code, positions_code, index, bit, block)
            for k in range(targets.size):
                if weights[k, m] != 0:
                    values = payloads[m] + 4 * index
                    _add_decoded(targets[k], values, weights[k, m], block[:number], begin, end)
            index += number
            more = number == BLOCK and block[number - 1] < end
