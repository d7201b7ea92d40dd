"""The threshold of the largest entries: estimated from a sample, then found among candidates."""

import numpy as np
from numpy.typing import NDArray

from pcode.compression.kernels.cpu.blocks import INFINITY_BITS, MAGNITUDE_BITS
from pcode.compression.kernels.cpu.cache import kernel
from pcode.compression.kernels.cpu.memory import Addresses, Ints, floats_at
from pcode.compression.top_k.candidates import Candidates, read_candidates

# Entries of a sample that lie together.
TOGETHER = 16
# A magnitude's 31 bits are searched in rounds: the lowest bit of each round and their number.
ROUNDS = ((20, 11), (10, 10), (0, 10))
# Columns of the table of tensors. SAMPLE_GROUPS groups of entries are the sample; the threshold is
# expected between its entries of ranks RANK_ABOVE and RANK_BELOW, the largest having rank 1. With
# RANK_BELOW 0 every entry but zeros is a candidate, with RANK_ABOVE 0 the bracket has no end.
OFFSET, SIZE, SELECTED, SELECTED_BEFORE, SAMPLE_GROUPS, RANK_ABOVE, RANK_BELOW = range(7)


@kernel
def _count_digits(
    bits: NDArray[np.int32], prefix: int, shift: int, width: int, histogram: Ints
) -> None:
    """Count the digits (`width` bits from bit `shift`) of the magnitudes that begin with prefix."""
    mask = (1 << width) - 1
    for each in bits:
        digits = (each & MAGNITUDE_BITS) >> shift
        if digits >> width == prefix:
            histogram[digits & mask] += 1


@kernel
def threshold_of_rank(
    difference: Addresses, segments: Ints, rank: int, candidates: Candidates, spare: Candidates
) -> tuple[int, int]:
    """Return the magnitude (its bits) of that rank in all segments, 1 for the largest.

    Also returns how many entries of just that magnitude are among the largest `rank` ones.
    """
    prefix = 0
    histogram = np.empty(1 << 11, dtype=np.int64)
    for shift, width in ROUNDS:
        histogram[:] = 0
        for segment in range(candidates.spans.shape[0]):
            least = prefix << (shift + width)
            bits, _ = read_candidates(difference, segments, segment, least, candidates, spare)
            _count_digits(bits, prefix, shift, width, histogram)
        digit = (1 << width) - 1
        while rank > histogram[digit]:
            rank -= histogram[digit]
            digit -= 1
        prefix = (prefix << width) | digit
    return prefix, rank


@kernel
def estimate_bracket(difference: Addresses, tensor: Ints, segments: Ints) -> tuple[int, int]:
    """Guess a bracket that holds the threshold: at least the first, less than the second."""
    if tensor[RANK_BELOW] == 0:
        return 1, INFINITY_BITS
    num_groups = tensor[SAMPLE_GROUPS]
    stride = tensor[SIZE] // (TOGETHER * num_groups) * TOGETHER
    entries = np.empty(TOGETHER * num_groups, dtype=np.float32)
    for group in range(num_groups):
        position = tensor[OFFSET] + group * stride
        value = floats_at(difference.value + 4 * position, TOGETHER)
        at = difference.reference + 4 * difference.stride * position
        reference = floats_at(at, TOGETHER)
        for number in range(TOGETHER):
            entries[TOGETHER * group + number] = value[number] - reference[number]
    spans = np.array([[0, entries.size]], dtype=np.int64)
    sample = Candidates(entries.view(np.int32), np.empty(0, dtype=np.uint32), spans)
    bracket = np.array([1, INFINITY_BITS])
    for side, rank in enumerate((tensor[RANK_BELOW], tensor[RANK_ABOVE])):
        if rank > 0:
            bracket[side], _ = threshold_of_rank(difference, segments, rank, sample, sample)
    return max(bracket[0], 1), bracket[1]


@kernel
def _narrow(candidates: Candidates, size: int, limit: int) -> tuple[Candidates, int]:
    """Return the bits of those candidates that are less than the limit.

    Also returns the number of the others.

    Args:
        size: the number of all.
    """
    bits = np.empty(size, dtype=np.int32)
    found = 0
    for start, number in candidates.spans:
        for each in candidates.bits[start : start + number]:
            # Without a branch, which nothing could foresee.
            bits[np.uint64(found)] = each
            found += each & MAGNITUDE_BITS < limit
    spans = np.array([[0, found]], dtype=np.int64)
    return Candidates(bits, candidates.positions, spans), size - found


@kernel
def select_threshold(
    difference: Addresses,
    segments: Ints,
    wanted: int,
    bracket: Ints,
    candidates: Candidates,
    spare: Candidates,
) -> tuple[int, int]:
    """Do as `threshold_of_rank` from the candidates, which are given up where they do not do."""
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
    return threshold_of_rank(difference, segments, wanted, candidates, spare)
