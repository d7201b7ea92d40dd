"""The quantizing compressor against the contract, and what is particular to it."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pcode.compression import Compressor, Message, make_compressor
from pcode.compression.none import NoCompression
from pcode.utils.errors import UserError
from pcode.utils.layout import Layout
from tests.compression.compressor_contract import (
    CompressorContract,
    Floats,
    bits_of,
    normal,
    variants,
)

LEVELS = (1, 2, 4, 8, 16)


def words_of(key: int, number: int) -> int:
    """The upper 32 bits of number `number` of SplitMix64 started at the key."""
    z = (key + (number + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return (z ^ (z >> 31)) >> 32


def draws_of(key: int, tensor: int, size: int) -> NDArray[np.float64]:
    """The u in [0, 1) of each entry."""
    x = np.arange(size, dtype=np.uint32) + np.uint32(words_of(key, 2 * tensor))
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x ^= np.uint32(words_of(key, 2 * tensor + 1))
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return np.asarray(x >> np.uint32(1), dtype=np.float64) / 2.0**31


def error_bound(size: int, level: int) -> float:
    s = (1 << level) - 1
    return min(size / s**2, math.sqrt(size) / s)


def definition(v: Floats, u: NDArray[np.float64], level: int, is_biased: bool) -> Floats:
    s = 2**level - 1
    norm = math.sqrt(math.fsum((v.astype(np.float64) ** 2).tolist()))
    norm = min(norm, float(np.nextafter(np.finfo(np.float32).max, np.float32(0))))
    if norm == 0:
        return np.zeros_like(v)
    power = 2.0 ** max(-math.frexp(norm)[1], -126)
    # 1e-45 has exponent -148.
    power = min(power, 2.0**127)
    scaled = np.abs(v) * np.float32(power) * np.float32(s / (norm * power))
    whole = np.floor(scaled)
    # In units of 2^-31, rounded down.
    limits = np.floor((scaled - whole).astype(np.float64) * 2**31) / 2**31
    xi = np.minimum(whole + (u < limits), s).astype(np.float32)
    scale = np.float32(norm / s / (1 + is_biased * error_bound(v.size, level)))
    return np.asarray(np.where(v < 0, -1, 1) * (xi * scale), dtype=np.float32)


class QSGDContract(CompressorContract):
    level: ClassVar[int]
    is_biased: ClassVar[bool]
    # The sum of squares depends on the order.
    drawn_ulp = 1
    num_keys = 30

    def make(self) -> Compressor:
        return make_compressor("quantize_qsgd", quantize_level=self.level, is_biased=self.is_biased)

    def definition(self, v: Floats, tensor: int) -> Floats:
        return definition(v, draws_of(0, tensor, v.size), self.level, self.is_biased)

    def delta(self, v: Floats) -> float:
        bound = error_bound(v.size, self.level)
        return 1 / (1 + bound) if self.is_biased else 1 - bound


globals().update(variants(QSGDContract, level=LEVELS, is_biased=(True, False)))


class TestLevel32(CompressorContract):
    def make(self) -> Compressor:
        return make_compressor("quantize_qsgd", quantize_level=32)

    def definition(self, v: Floats, tensor: int) -> Floats:
        return v

    def delta(self, v: Floats) -> float:
        return 1.0


def round_trip(
    layout: Layout, v: torch.Tensor, level: int, is_biased: bool, key: int
) -> torch.Tensor:
    compressor = make_compressor("quantize_qsgd", quantize_level=level, is_biased=is_biased)
    message = Message(torch.zeros(compressor.message_bytes(layout), dtype=torch.uint8), key)
    compressor.encode(layout, v, None, message)
    target = torch.zeros(layout.num_entries)
    compressor.accumulate(layout, [message], [target], [[1.0]])
    return target


@pytest.mark.parametrize("level", LEVELS)
class TestLevels:
    def test_unbiased_mean_is_v(self, level: int) -> None:
        layout = Layout.of_sizes([32, 5])
        v = normal(layout, 1)
        got = torch.stack([round_trip(layout, v, level, False, key) for key in range(4000)])
        error = (got.double().mean(0) - v).abs()
        # Float32 rounds the scale and the product.
        bound = 4.5 * got.double().std(0) / math.sqrt(len(got)) + 2.0**-22 * v.abs()
        assert (error <= bound).all()

    def test_message_takes_level_plus_one_bits(self, level: int) -> None:
        compressor = make_compressor("quantize_qsgd", quantize_level=level)
        sizes = [1, 31, 32, 33, 0, 1_000_000]
        bits = sum((level + 1) * size for size in sizes)
        got = 8 * (compressor.message_bytes(Layout.of_sizes(sizes)) - 4 * len(sizes))
        assert bits <= got < bits + 2 * 8 * len(sizes)
        assert compressor.message_bytes(Layout.of_sizes([16])) == 4 + 2 + 2 * level

    def test_message_holds_scales_then_signs_then_magnitudes(self, level: int) -> None:
        s = 2**level - 1
        layout = Layout.of_sizes([16, 0, 16])
        v = torch.zeros(32)
        # One entry alone is the norm, which is rounded to s.
        v[3], v[17] = -float(s), 2.0 * s
        compressor = make_compressor("quantize_qsgd", quantize_level=level, is_biased=False)
        message = Message(torch.zeros(compressor.message_bytes(layout), dtype=torch.uint8))
        compressor.encode(layout, v, None, message)
        data = message.payload.numpy()
        assert data[:12].view("<f4").tolist() == [1.0, 0.0, 2.0]
        first, second = data[12 : 14 + 2 * level], data[14 + 2 * level :]
        assert int.from_bytes(first[:2].tobytes(), "little") == 1 << 3
        assert int.from_bytes(first[2:].tobytes(), "little") == s << (3 * level)
        assert int.from_bytes(second[:2].tobytes(), "little") == 0
        assert int.from_bytes(second[2:].tobytes(), "little") == s << level

    def test_zeros_give_zeros(self, level: int) -> None:
        layout = Layout.of_sizes([40, 1, 0, 3])
        v = torch.cat([torch.zeros(40), torch.tensor([0.0, 1.0, -2.0, 3.0])])
        got = round_trip(layout, v, level, True, 5)
        assert (got[:41] == 0).all()
        assert got[41:].any()

    def test_keys_and_tensors_draw_independently(self, level: int) -> None:
        layout = Layout.of_sizes([1000, 1000])
        v = normal(Layout.of_sizes([1000]), 1).repeat(2)
        first, second = (round_trip(layout, v, level, True, key) for key in (1, 2))
        assert not torch.equal(first, second)
        assert not torch.equal(first[:1000], first[1000:])
        assert torch.equal(first, round_trip(layout, v, level, True, 1))

    @pytest.mark.parametrize("largest", [2.0**-149, 2.0**-126, 3.4e38])
    def test_extreme_norms_are_finite_and_no_magnitude_exceeds_s(
        self, level: int, largest: float
    ) -> None:
        for size in (1, 2, 1000):
            layout = Layout.of_sizes([size])
            got = round_trip(layout, torch.full((size,), largest), level, False, 1)
            assert got.isfinite().all()
            limit = min(largest * math.sqrt(size), torch.finfo(torch.float32).max)
            # A scale below float32's normal numbers is rounded to one of few.
            assert float(got.abs().max()) <= limit * 1.000001 + 2.0**-149 * 2**level


def test_draws_are_uniform_and_independent_of_their_neighbours() -> None:
    u = draws_of(7, 3, 1 << 20)
    counts = np.histogram(u, 256, (0, 1))[0]
    expected = len(u) / 256
    assert np.square(counts - expected).sum() / expected < 255 + 4 * math.sqrt(2 * 255)
    for lag in (1, 2, 16, 1 << 16):
        correlation = np.corrcoef(u[:-lag], u[lag:])[0, 1]
        assert abs(correlation) < 4.5 / math.sqrt(len(u))


@pytest.mark.parametrize("bad", [0, 3, 64, -8])
def test_other_levels_are_refused(bad: int) -> None:
    with pytest.raises(UserError, match=rf"--quantize_level {bad}: must be 1, 2, 4, 8, 16 or 32"):
        make_compressor("quantize_qsgd", quantize_level=bad)


def test_32_bits_are_the_identity() -> None:
    layout = Layout.of_sizes([3, 20])
    compressor, identity = make_compressor("quantize_qsgd", quantize_level=32), NoCompression()
    assert compressor.message_bytes(layout) == 4 * 23
    assert compressor.contraction(layout) == 1.0
    assert compressor.description == identity.description
    v = normal(layout, 1)
    np.testing.assert_array_equal(bits_of(round_trip(layout, v, 32, True, 0)), bits_of(v))


def test_contraction_is_that_of_the_largest_tensor() -> None:
    layout = Layout.of_sizes([10, 10_000, 3])
    biased = make_compressor("quantize_qsgd", quantize_level=4)
    unbiased = make_compressor("quantize_qsgd", quantize_level=4, is_biased=False)
    assert biased.contraction(layout) == pytest.approx(1 / (1 + 100 / 15))
    assert unbiased.contraction(layout) == pytest.approx(1 - 100 / 15)
    assert unbiased.contraction(Layout.of_sizes([9])) == pytest.approx(1 - 9 / 225)
    assert biased.contraction(Layout.of_sizes([])) == 1.0


def test_words_for_the_first_lines() -> None:
    gammas = [
        make_compressor("quantize_qsgd", quantize_level=level).default_consensus_stepsize
        for level in (*LEVELS, 32)
    ]
    assert gammas == [0.01, 0.025, 0.075, 0.2, 0.2, 1.0]
    assert make_compressor("quantize_qsgd").description == (
        "8-bit magnitudes and a sign, rounded at random, biased"
    )
