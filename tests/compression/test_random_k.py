"""The random-k compressor against the contract, and what is particular to it."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pcode.compression import Compressor, Message, make_compressor
from pcode.compression.draws import words_of
from pcode.compression.random_k.cpu import draw_positions
from pcode.compression.random_k.draw import NUM_WORDS, SHUFFLED_ENTRIES
from pcode.compression.selection import selected_entries, selected_of
from pcode.utils.errors import NotFiniteError, UserError
from pcode.utils.layout import Layout
from tests.compression.compressor_contract import (
    CompressorContract,
    Floats,
    normal,
    variants,
)

RATIOS = (0.5, 0.9, 0.99)
Positions = NDArray[np.int64]


def split_mix(key: int, number: int) -> int:
    z = (key + (number + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


@lru_cache(maxsize=4096)
def positions_of(key: int, tensor: int, size: int, selected: int) -> Positions:
    """What the docstring of RandomK says, another time."""
    words = [split_mix(key, NUM_WORDS * tensor + number) >> 32 for number in range(NUM_WORDS)]
    if size <= SHUFFLED_ENTRIES:
        order = list(range(size))
        for index in range(selected):
            draw = split_mix(words[0] << 32 | words[1], index) >> 12
            other = index + (draw * (size - index) >> 52)
            order[index], order[other] = order[other], order[index]
        return np.array(order[:selected], dtype=np.int64)
    bits = (size - 1).bit_length()
    found = np.arange(selected)
    outside = np.ones(selected, dtype=bool)
    while outside.any():
        x = found[outside].astype(np.uint64)
        for word, factor in zip(words[:4], words[4:], strict=True):
            x = (x + np.uint64(word)) * np.uint64(factor | 1) % np.uint64(1 << bits)
            x ^= x >> np.uint64((bits + 1) // 2)
        found[outside] = x
        outside = found >= size
    return found


def drawn(key: int, size: int, selected: int) -> Positions:
    """What the kernel draws for the first tensor."""
    positions = np.empty(max(size, SHUFFLED_ENTRIES), dtype=np.uint32)
    draw_positions(words_of(key, 1, NUM_WORDS)[0], size, 0, selected, positions)
    return positions[:selected].astype(np.int64)


class RandomKContract(CompressorContract):
    ratio: ClassVar[float]
    is_biased: ClassVar[bool]
    # Times d / k still finite.
    largest = 2.0**118
    num_keys = 100

    def make(self) -> Compressor:
        return make_compressor(
            "compress_random_k", compress_ratio=self.ratio, is_biased=self.is_biased
        )

    def definition(self, v: Floats, tensor: int) -> Floats:
        selected = selected_entries(v.size, self.ratio)
        positions = positions_of(0, tensor, v.size, selected)
        q = np.zeros_like(v)
        q[positions] = v[positions]
        return q if self.is_biased else q * np.float32(v.size / max(selected, 1))

    def delta(self, v: Floats) -> float:
        share = selected_entries(v.size, self.ratio) / v.size
        return share if self.is_biased else 2 - 1 / share

    def num_added(self, layout: Layout) -> int:
        return sum(selected_of(layout.sizes, self.ratio))


globals().update(variants(RandomKContract, ratio=RATIOS, is_biased=(True, False)))


def deviations(counts: NDArray[np.int64], expected: NDArray[np.float64]) -> float:
    """Standard deviations by which chi-square is above its mean."""
    freedom = max(counts.size - 1, 1)
    chi_square = (np.square(counts - expected) / expected).sum()
    return float((chi_square - freedom) / math.sqrt(2 * freedom))


SIZES = [(5, 2), (9, 3), (33, 32), (4096, 41), (4097, 41), (8192, 82), (9000, 4500)]


@pytest.mark.parametrize(("size", "selected"), [*SIZES, (1, 1), (2, 1), (7, 7), (5000, 5000)])
def test_positions_are_distinct_and_those_of_the_definition(size: int, selected: int) -> None:
    for key in (0, 1, 2**63 - 1):
        positions = drawn(key, size, selected)
        assert len(set(positions.tolist())) == selected
        assert positions.max() < size
        np.testing.assert_array_equal(positions, positions_of(key, 0, size, selected))


@pytest.mark.parametrize(("size", "selected"), [(1, 1), (2, 1), (3, 2), (5, 2), (5, 4), (7, 2)])
def test_every_subset_of_few_is_equally_likely(size: int, selected: int) -> None:
    num_keys, num_subsets = 20_000, math.comb(size, selected)
    found, counts = np.unique(
        [np.bitwise_or.reduce(1 << drawn(key, size, selected)) for key in range(num_keys)],
        return_counts=True,
    )
    assert found.size == num_subsets
    assert deviations(counts, np.full(num_subsets, num_keys / num_subsets)) < 5


@pytest.mark.parametrize(("size", "selected"), SIZES)
def test_positions_and_pairs_are_equally_likely(size: int, selected: int) -> None:
    num_keys = 5000
    # One position and two distances of each key, so that the counts are independent.
    picked = np.stack([drawn(key, size, selected)[[0, 1, -1]] for key in range(num_keys)])
    buckets = min(size - 1, 64)

    def check(numbers: Positions, limit: int) -> None:
        counts = np.bincount(numbers * buckets // limit, minlength=buckets)
        sizes = np.bincount(np.arange(limit) * buckets // limit, minlength=buckets)
        assert deviations(counts, sizes * num_keys / limit) < 5

    for column in range(3):
        check(picked[:, column], size)
    for column in (1, 2):
        check((picked[:, column] - picked[:, 0]) % size - 1, size - 1)


@pytest.mark.parametrize(
    ("size", "selected"), [(4096, 512), (5000, 500), (8192, 820), (9000, 4500)]
)
def test_positions_of_one_key_spread_as_a_random_subset_does(size: int, selected: int) -> None:
    draws = [drawn(key, size, selected) for key in range(1000)]
    # Of 16 classes, by the upper and the lower bits: the variance is the hypergeometric one.
    variance = selected / 16 * 15 / 16 * (size - selected) / (size - 1)
    for classes in ([16 * each // size for each in draws], [each % 16 for each in draws]):
        counts = np.stack([np.bincount(each, minlength=16) for each in classes])
        assert np.square(counts - selected / 16).mean() == pytest.approx(variance, rel=0.06)
    for distance in (1, 2, 64):
        pairs = [np.isin((each + distance) % size, each).sum() for each in draws]
        expected = selected * (selected - 1) / (size - 1)
        assert abs(np.mean(pairs) - expected) < 4.5 * np.std(pairs) / math.sqrt(len(draws))


def encoded(compressor: Compressor, layout: Layout, v: torch.Tensor, key: int) -> Message:
    message = Message(torch.zeros(compressor.message_bytes(layout), dtype=torch.uint8), key)
    compressor.encode(layout, v, None, message)
    return message


@pytest.mark.parametrize("ratio", RATIOS)
def test_unbiased_mean_is_v(ratio: float) -> None:
    layout = Layout.of_sizes([40, 1, 0, 5])
    compressor = make_compressor("compress_random_k", compress_ratio=ratio, is_biased=False)
    v = normal(layout, 1)
    got = torch.zeros(20_000, layout.num_entries)
    for key, target in enumerate(got):
        message = encoded(compressor, layout, v, key)
        compressor.accumulate(layout, [message], [target], [[1.0]])
    bound = 4.5 * got.double().std(0) / math.sqrt(len(got)) + 1e-7 * v.abs()
    assert ((got.double().mean(0) - v).abs() <= bound).all()


@pytest.mark.parametrize("ratio", RATIOS)
def test_message_is_the_selected_values_and_no_more(ratio: float) -> None:
    layout = Layout.of_sizes([1, 0, 1000, 100_000])
    compressor = make_compressor("compress_random_k", compress_ratio=ratio)
    v = normal(layout, 1)
    values = encoded(compressor, layout, v, 3).payload.numpy().view("<f4")
    selected = selected_of(layout.sizes, ratio)
    assert compressor.message_bytes(layout) == 4 * sum(selected) == 4 * len(values)
    ends = np.cumsum(selected)
    for tensor, view in enumerate(layout.views(v)):
        positions = positions_of(3, tensor, view.numel(), selected[tensor])
        here = values[ends[tensor] - selected[tensor] : ends[tensor]]
        np.testing.assert_array_equal(here, view.numpy()[positions])


def test_ratio_zero_keeps_all() -> None:
    layout = Layout.of_sizes([10, 10_000])
    for is_biased in (True, False):
        compressor = make_compressor("compress_random_k", compress_ratio=0.0, is_biased=is_biased)
        v, target = normal(layout, 1), torch.zeros(layout.num_entries)
        message = encoded(compressor, layout, v, 1)
        compressor.accumulate(layout, [message], [target], [[1.0]])
        assert torch.equal(target, v)
        assert compressor.contraction(layout) == 1.0


def test_what_is_not_finite_is_found_where_it_is_drawn() -> None:
    layout = Layout.of_sizes([100, 10_000])
    compressor = make_compressor("compress_random_k", compress_ratio=0.9)
    selected = selected_of(layout.sizes, 0.9)
    for tensor, size in enumerate(layout.sizes):
        positions = positions_of(1, tensor, size, selected[tensor])
        v = normal(layout, 1)
        view = layout.views(v)[tensor]
        others = np.setdiff1d(np.arange(size), positions)
        view[others] = math.nan
        encoded(compressor, layout, v, 1)
        view[int(positions[-1])] = math.inf
        with pytest.raises(NotFiniteError, match=f"tensor {tensor} holds NaN or infinity"):
            encoded(compressor, layout, v, 1)


def test_tensor_beyond_sizes_of_32_bits_is_refused() -> None:
    compressor = make_compressor("compress_random_k", compress_ratio=0.99)
    largest = 2**32 - 1
    layout = Layout.of_sizes([largest, largest])
    assert compressor.message_bytes(layout) == 8 * selected_entries(largest, 0.99)
    # The kernels themselves, at both ends of the largest tensor.
    for first in (0, largest - 1000):
        positions = np.empty(SHUFFLED_ENTRIES, dtype=np.uint32)
        draw_positions(words_of(1, 1, NUM_WORDS)[0], largest, first, 1000, positions)
        assert len(set(positions[:1000].tolist())) == 1000
        assert positions[:1000].max() < largest
    layout, empty = Layout.of_sizes([3, 2**32]), torch.empty(0)
    message = Message(torch.empty(0, dtype=torch.uint8))
    refused = "random-k compresses at most 4294967295 entries of a tensor, not 4294967296"
    with pytest.raises(UserError, match=refused):
        compressor.message_bytes(layout)
    with pytest.raises(UserError, match=refused):
        compressor.encode(layout, empty, None, message)
    with pytest.raises(UserError, match=refused):
        compressor.accumulate(layout, [message], [empty], [[1.0]])


def test_contraction_is_that_of_the_smallest_share() -> None:
    layout = Layout.of_sizes([10, 0, 19, 1000])
    biased = make_compressor("compress_random_k", compress_ratio=0.9)
    unbiased = make_compressor("compress_random_k", compress_ratio=0.9, is_biased=False)
    assert biased.contraction(layout) == pytest.approx(1 / 19)
    assert unbiased.contraction(layout) == pytest.approx(2 - 19)
    assert biased.contraction(Layout.of_sizes([])) == 1.0


@pytest.mark.parametrize(
    ("size", "ratio", "selected"),
    [
        *((1000, 0.9, 100), (1000, 0.99, 10), (1000, 0.999, 1), (100, 0.71, 29), (10, 0.0, 10)),
        *((1, 0.99, 1), (0, 0.5, 0), (99, 0.99, 1), (3, 0.5, 1), (10**6, 1e-5, 999_990)),
    ],
)
def test_selected_entries_take_the_ratio_as_it_is_typed(
    size: int, ratio: float, selected: int
) -> None:
    assert selected_entries(size, ratio) == selected


@pytest.mark.parametrize("bad", [1.0, -0.1, 90.0, math.nan])
def test_other_ratios_are_refused(bad: float) -> None:
    with pytest.raises(UserError, match=rf"--compress_ratio {bad}: must be at least 0 and less"):
        make_compressor("compress_random_k", compress_ratio=bad)


def test_consensus_stepsize_goes_through_the_tuned_ones() -> None:
    ratios = (0.0, 0.5, 0.7, 0.9, 0.99, 0.999)
    gammas = [
        make_compressor("compress_random_k", compress_ratio=ratio).default_consensus_stepsize
        for ratio in ratios
    ]
    assert gammas == pytest.approx([0.45, 0.45, 0.2548, 0.075, 0.00625, 0.00625], rel=1e-3)


def test_words_for_the_first_lines() -> None:
    assert make_compressor("compress_random_k", compress_ratio=0.99).description == (
        "selects 1 % of the entries of each tensor (drops 99 %), drawn at random, biased"
    )
