"""GPU kernels that choose the largest entries of every tensor, in the order of positions.

A sample brackets the threshold of each tensor (`sample.bracket`). One pass over the vectors
(`collect`) then puts aside the candidates, which reach the bracket's lower end, segment by segment
in the order of their positions, and the magnitudes within the bracket, which are few, tensor by
tensor in any order. The exact threshold is found among the latter (`find_threshold`), and the
candidates that reach it are counted (`count_selected`) and written (`write_selected`).

Bytes for each entry of the vector, at a share q that is selected: value and reference are 8; the
candidates, some 2 % of the entries more than q, are 6 to write and 10 to read; what is selected is
8 to write and 4 to read, values and positions. That is 8.5, 11 and 22 bytes at shares of 1, 10 and
50 %, 1.1, 1.4 and 2.8 times what one pass reads. A radix select of three histograms would read 8
bytes four times or more, whatever the share.

Where the sample misled, a tensor is read again by the program that seeks its threshold, and by the
segments that count and write; where a segment has more candidates than there is space for, by these
last.

Magnitudes are compared as the integers that their bits are.
"""

from typing import Any

import triton
import triton.language as tl

from pcode.compression.kernels.gpu.blocks import difference, floats_at, segment_of

# Entries that one program takes at a time.
THRESHOLD_ENTRIES = 4096
SELECTED_ENTRIES = 1024
# A digit of the threshold: 2^8 counts. Triton 3.6 counts by a vote for each bit and count, which a
# thread keeps in registers: of 2^11 they did not fit.
DIGIT_BITS = 8
# Columns of the table of tensors, by which kernels read it. RANK_BELOW is 0 where no sample is
# taken: every entry but zeros is a candidate. RANK_ABOVE is 0 where the bracket has no upper end.
# Magnitudes within the bracket have their list at LIST, with room for LIST_ROOM.
COLUMNS = tl.constexpr(8)
OFFSET, SIZE, SELECTED, SELECTED_BEFORE, RANK_ABOVE, RANK_BELOW, LIST, LIST_ROOM = map(
    tl.constexpr, range(COLUMNS.value)
)


@triton.jit
def magnitudes_of(entries: tl.tensor) -> Any:
    return entries.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def collect(
    value: tl.tensor,
    reference: tl.tensor,
    tensors: tl.tensor,
    brackets: tl.tensor,
    begins: tl.tensor,
    candidates: tl.tensor,
    positions: tl.tensor,
    counts: tl.tensor,
    listed: tl.tensor,
    totals: tl.tensor,
    segments: tl.tensor,
    ENTRIES: tl.constexpr,
) -> None:
    """Put aside a segment's candidates, as far as there is room, and count them all.

    Args:
        begins: before each segment and in all, the candidates that there is space for.
        candidates, positions: to be written: the differences, and their places in the segment.
        counts: to be written, for each segment.
        listed: to be written: the magnitudes within the brackets.
        totals: for each tensor the entries above the bracket and within it; zeros at first.
    """
    segment = tl.program_id(0)
    # Read by 16 bytes, entries would lie so among threads that counting them takes more registers
    # and barriers than it saves.
    tensor, first, _, size = segment_of(segments, 1)
    lowest, highest = tl.load(brackets + 2 * tensor), tl.load(brackets + 2 * tensor + 1)
    entries = tl.arange(0, ENTRIES)
    inside = entries < size
    found = difference(value, reference, first + entries, inside)
    magnitudes = magnitudes_of(found)
    is_candidate = inside & (magnitudes >= lowest)
    is_within = is_candidate & (magnitudes <= highest)
    # Two counts in one, of up to ENTRIES each.
    ones = is_candidate.to(tl.int32) | (is_within.to(tl.int32) << 16)
    ranks = tl.cumsum(ones, axis=0) - ones
    both = tl.sum(ones, axis=0)
    num_candidates, num_within = both & 0xFFFF, both >> 16

    begin, end = tl.load(begins + segment), tl.load(begins + segment + 1)
    to = begin + (ranks & 0xFFFF)
    fits = is_candidate & (to < end)
    tl.store(candidates + to, found, mask=fits)
    tl.store(positions + to, entries.to(tl.int16), mask=fits)
    tl.store(counts + segment, num_candidates)

    num_above = (num_candidates - num_within).to(tl.int64)
    tl.atomic_add(totals + 2 * tensor, num_above, sem="relaxed")
    before = tl.atomic_add(totals + 2 * tensor + 1, num_within.to(tl.int64), sem="relaxed")
    row = tensors + COLUMNS * tensor
    to = before + (ranks >> 16)
    # Magnitudes that are all the same need no list.
    room = tl.where(lowest < highest, tl.load(row + LIST_ROOM), 0)
    tl.store(listed + tl.load(row + LIST) + to, magnitudes, mask=is_within & (to < room))


@triton.jit
def find_threshold(
    value: tl.tensor,
    reference: tl.tensor,
    tensors: tl.tensor,
    brackets: tl.tensor,
    listed: tl.tensor,
    totals: tl.tensor,
    thresholds: tl.tensor,
    DIGIT_BITS: tl.constexpr,
    ENTRIES: tl.constexpr,
) -> None:
    """Write a tensor's threshold, the magnitude of the last selected entry, and its selected ties.

    The bits of the magnitude are found digit by digit, in the list, or in the whole tensor where
    the threshold is not within the bracket or the list is too long.
    """
    tensor = tl.program_id(0)
    row = tensors + COLUMNS * tensor
    offset, size, wanted = tl.load(row + OFFSET), tl.load(row + SIZE), tl.load(row + SELECTED)
    lowest, highest = tl.load(brackets + 2 * tensor), tl.load(brackets + 2 * tensor + 1)
    num_above, num_within = tl.load(totals + 2 * tensor), tl.load(totals + 2 * tensor + 1)
    has_list = (num_within <= tl.load(row + LIST_ROOM)) | (lowest == highest)
    is_within = has_list & (num_above < wanted) & (num_above + num_within >= wanted)
    # All that are left are zeros.
    is_zero = (lowest == 1) & (num_above + num_within < wanted)

    # The threshold is at least `low`, and less than 2^bits above it.
    low = tl.where(is_within, lowest, 0)
    span = tl.where(is_within, highest - lowest, 0x7FFFFFFF)
    span = tl.where(is_zero, 0, span)
    bits = tl.full([], 0, tl.int32)
    while span > 0:
        bits += 1
        span = span >> 1
    rank = tl.where(is_within, wanted - num_above, wanted)
    rank = tl.where(is_zero, wanted - num_above - num_within, rank)
    # Either the list is looked at, or the tensor.
    num_listed = tl.where(is_within, num_within, 0)
    number = tl.where(is_within, num_within, size)
    digits = tl.arange(0, 1 << DIGIT_BITS)
    while bits > 0:
        shift = tl.maximum(bits - DIGIT_BITS, 0)
        histogram = tl.zeros([1 << DIGIT_BITS], tl.int64)
        begin = tl.full([], 0, tl.int64)
        while begin < number:
            numbers = begin + tl.arange(0, ENTRIES)
            put_aside = tl.load(
                listed + tl.load(row + LIST) + numbers, mask=numbers < num_listed, other=0
            )
            is_read = (numbers >= num_listed) & (numbers < number)
            read = magnitudes_of(difference(value, reference, offset + numbers, is_read))
            above_low = tl.where(is_within, put_aside, read) - low
            counted = (numbers < number) & (above_low >= 0) & ((above_low >> bits) == 0)
            counted_digits = tl.where(counted, above_low >> shift, 0)
            histogram += tl.histogram(counted_digits, 1 << DIGIT_BITS, mask=counted).to(tl.int64)
            begin += ENTRIES
        # Entries of each digit and of larger ones.
        reaching = tl.sum(histogram, axis=0) - tl.cumsum(histogram, axis=0) + histogram
        digit = tl.sum((reaching >= rank).to(tl.int32), axis=0) - 1
        rank -= tl.sum(tl.where(digits > digit, histogram, 0), axis=0)
        low += digit << shift
        bits = shift
    tl.store(thresholds + 2 * tensor, low.to(tl.int64))
    tl.store(thresholds + 2 * tensor + 1, rank)


@triton.jit
def _source(
    tensor: tl.tensor,
    size: tl.tensor,
    threshold: tl.tensor,
    brackets: tl.tensor,
    begins: tl.tensor,
    counts: tl.tensor,
) -> Any:
    """Return where this segment's candidates begin, how many they are, and how many to look at.

    That is the candidates, or where they will not do, all entries; the first number then is 0.
    """
    segment = tl.program_id(0)
    number, begin = tl.load(counts + segment), tl.load(begins + segment)
    fits = number <= tl.load(begins + segment + 1) - begin
    will_do = fits & (threshold >= tl.load(brackets + 2 * tensor))
    return begin, tl.where(will_do, number, 0), tl.where(will_do, number, size)


@triton.jit
def _entries_of(
    value: tl.tensor,
    reference: tl.tensor,
    candidates: tl.tensor,
    first: tl.tensor,
    begin: tl.tensor,
    num_candidates: tl.tensor,
    numbers: tl.tensor,
    number: tl.tensor,
) -> Any:
    """Return what has to be looked at, by its numbers."""
    is_candidate = numbers < num_candidates
    put_aside = tl.load(candidates + begin + numbers, mask=is_candidate, other=0.0)
    is_read = (numbers >= num_candidates) & (numbers < number)
    read = difference(value, reference, first + numbers, is_read)
    return tl.where(is_candidate, put_aside, read)


@triton.jit
def count_selected(
    value: tl.tensor,
    reference: tl.tensor,
    brackets: tl.tensor,
    segments: tl.tensor,
    begins: tl.tensor,
    candidates: tl.tensor,
    counts: tl.tensor,
    thresholds: tl.tensor,
    tallies: tl.tensor,
    ENTRIES: tl.constexpr,
) -> None:
    """Write a segment's entries above the threshold into row 0, and those equal to it into 1.

    Args:
        tallies: 2 x num_segments int64.
    """
    tensor, first, _, size = segment_of(segments, 1)
    threshold = tl.load(thresholds + 2 * tensor)
    begin, num_candidates, number = _source(tensor, size, threshold, brackets, begins, counts)
    num_above, num_equal = tl.full([], 0, tl.int32), tl.full([], 0, tl.int32)
    start = tl.full([], 0, tl.int64)
    while start < number:
        numbers = start + tl.arange(0, ENTRIES)
        inside = numbers < number
        magnitudes = magnitudes_of(
            _entries_of(value, reference, candidates, first, begin, num_candidates, numbers, number)
        )
        num_above += tl.sum((inside & (magnitudes > threshold)).to(tl.int32), axis=0)
        num_equal += tl.sum((inside & (magnitudes == threshold)).to(tl.int32), axis=0)
        start += ENTRIES
    to = tallies + tl.program_id(0)
    tl.store(to, num_above.to(tl.int64))
    tl.store(to + tl.num_programs(0), num_equal.to(tl.int64))


@triton.jit
def write_selected(
    value: tl.tensor,
    reference: tl.tensor,
    tensors: tl.tensor,
    brackets: tl.tensor,
    segments: tl.tensor,
    firsts: tl.tensor,
    begins: tl.tensor,
    candidates: tl.tensor,
    positions: tl.tensor,
    counts: tl.tensor,
    thresholds: tl.tensor,
    tallies: tl.tensor,
    sums: tl.tensor,
    payload: tl.tensor,
    selected_positions: tl.tensor,
    ENTRIES: tl.constexpr,
) -> None:
    """Write what is selected of a segment: values into the message, positions in a vector.

    Args:
        firsts: the number of each tensor's first segment.
        tallies: of `count_selected`.
        sums: of the tallies, up to each segment and with it.
    """
    segment, num_segments = tl.program_id(0), tl.num_programs(0)
    tensor, first, _, size = segment_of(segments, 1)
    threshold, ties = tl.load(thresholds + 2 * tensor), tl.load(thresholds + 2 * tensor + 1)
    begin, num_candidates, number = _source(tensor, size, threshold, brackets, begins, counts)
    own = tl.load(firsts + tensor)
    above_before = tl.load(sums + segment) - tl.load(tallies + segment)
    above_before -= tl.load(sums + own) - tl.load(tallies + own)
    sums += num_segments
    tallies += num_segments
    equal_before = tl.load(sums + segment) - tl.load(tallies + segment)
    equal_before -= tl.load(sums + own) - tl.load(tallies + own)
    at = (
        tl.load(tensors + COLUMNS * tensor + SELECTED_BEFORE)
        + above_before
        + tl.minimum(equal_before, ties)
    )
    ties = tl.maximum(ties - equal_before, 0)
    start = tl.full([], 0, tl.int64)
    while start < number:
        numbers = start + tl.arange(0, ENTRIES)
        inside = numbers < number
        entries = _entries_of(
            value, reference, candidates, first, begin, num_candidates, numbers, number
        )
        is_candidate = numbers < num_candidates
        places = tl.load(positions + begin + numbers, mask=is_candidate, other=0).to(tl.int32)
        places = first + tl.where(is_candidate, places, numbers)
        magnitudes = magnitudes_of(entries)
        is_above = inside & (magnitudes > threshold)
        is_equal = inside & (magnitudes == threshold)
        # Two counts in one, as in `collect`.
        ones = is_above.to(tl.int32) | (is_equal.to(tl.int32) << 16)
        ranks = tl.cumsum(ones, axis=0) - ones
        is_selected = is_above | (is_equal & ((ranks >> 16) < ties))
        to = at + (ranks & 0xFFFF) + tl.minimum((ranks >> 16).to(tl.int64), ties)
        tl.store(floats_at(payload) + to, entries, mask=is_selected)
        tl.store(selected_positions + to, places.to(tl.int32), mask=is_selected)
        both = tl.sum(ones, axis=0)
        at += (both & 0xFFFF) + tl.minimum((both >> 16).to(tl.int64), ties)
        ties = tl.maximum(ties - (both >> 16), 0)
        start += ENTRIES
