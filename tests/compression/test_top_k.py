"""The top-k compressor against the contract, and what is particular to it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchvision.models import resnet50

from pcode.compression import Compressor, Message, make_compressor
from pcode.compression.selection import selected_entries
from pcode.models import make_model
from pcode.utils.errors import NotFiniteError, UserError
from pcode.utils.layout import Layout
from tests.compression.compressor_contract import (
    CANARY_ENTRIES,
    CompressorContract,
    Floats,
    bits_of,
    normal,
    variants,
)
from tests.support.pairwise import pairwise

RATIOS = (0.0, 0.5, 0.9, 0.99)


def top_k(ratio: float) -> Compressor:
    return make_compressor("compress_top_k", compress_ratio=ratio)


def definition(v: Floats, ratio: float) -> Floats:
    selected = np.argsort(-np.abs(v), kind="stable")[: selected_entries(v.size, ratio)]
    q = np.zeros_like(v)
    q[selected] = v[selected]
    return q


def encoded(
    layout: Layout, ratio: float, value: torch.Tensor, reference: torch.Tensor | None = None
) -> Message:
    compressor = top_k(ratio)
    message = Message(torch.zeros(compressor.message_bytes(layout), dtype=torch.uint8))
    compressor.encode(layout, value, reference, message)
    return message


def decoded(layout: Layout, ratio: float, message: Message) -> torch.Tensor:
    target = torch.zeros(layout.num_entries)
    top_k(ratio).accumulate(layout, [message], [target], [[1.0]])
    return target


def check(ratio: float, v: Floats) -> None:
    """One tensor, bit for bit, -0.0 becoming 0.0 as it is added to 0."""
    layout = Layout.of_sizes([v.size])
    got = decoded(layout, ratio, encoded(layout, ratio, torch.from_numpy(v)))
    np.testing.assert_array_equal(bits_of(got), bits_of(0 + definition(v, ratio)))


class TopKContract(CompressorContract):
    ratio: ClassVar[float]

    def make(self) -> Compressor:
        return top_k(self.ratio)

    def definition(self, v: Floats, tensor: int) -> Floats:
        return definition(v, self.ratio)

    def delta(self, v: Floats) -> float:
        return selected_entries(v.size, self.ratio) / v.size

    def test_weight_zero_leaves_out_whatever_the_message_holds(self) -> None:
        layout = Layout.of_sizes([40, 3])
        garbage = Message(torch.full((self.make().message_bytes(layout),), 0xFF, dtype=torch.uint8))
        buffer = torch.full((layout.num_entries + 2 * CANARY_ENTRIES,), -0.0)
        target = buffer[CANARY_ENTRIES : CANARY_ENTRIES + layout.num_entries]
        before = bits_of(buffer).copy()
        self.make().accumulate(layout, [garbage], [target], [[0.0]])
        np.testing.assert_array_equal(bits_of(buffer), before)
        self.make().accumulate(layout, [garbage], [target], [[1.0]])
        touched = bits_of(buffer) != before
        assert buffer.isnan().numpy()[touched].all()
        assert touched.any()
        assert not touched[:CANARY_ENTRIES].any()
        assert not touched[-CANARY_ENTRIES:].any()


globals().update(variants(TopKContract, ratio=RATIOS))


@pytest.mark.parametrize("ratio", RATIOS)
class TestVectors:
    """Vectors that a sample or a search by digits could be wrong about; larger than is sampled."""

    size = 200_003

    def normal(self) -> Floats:
        return np.random.default_rng(1).standard_normal(self.size, dtype=np.float32)

    @pytest.mark.parametrize("size", [1, 31, 32, 33, 1_000_000])
    def test_sizes(self, ratio: float, size: int) -> None:
        check(ratio, normal(Layout.of_sizes([size]), 1).numpy())

    @pytest.mark.parametrize("levels", [1, 2, 100])
    def test_ties(self, ratio: float, levels: int) -> None:
        integers = np.random.default_rng(levels).integers(-levels, levels + 1, self.size)
        check(ratio, integers.astype(np.float32))

    @pytest.mark.parametrize("constant", [0.0, -0.0, -1.5, 1e-45, float(np.finfo("f4").max)])
    def test_constants(self, ratio: float, constant: float) -> None:
        check(ratio, np.full(self.size, constant, dtype=np.float32))

    def test_zeros_of_either_sign_tie(self, ratio: float) -> None:
        check(ratio, np.where(self.normal() > 0, 0.0, -0.0).astype(np.float32))

    @pytest.mark.parametrize("share", [1 / 200_003, 0.004, 0.02, 0.2, 0.6])
    def test_mostly_zeros(self, ratio: float, share: float) -> None:
        v = self.normal()
        v[np.random.default_rng(2).random(self.size) >= share] = 0
        v[self.size // 2] = 1e30
        check(ratio, v)

    @pytest.mark.parametrize(
        "corner", [slice(0, 3000), slice(100_000, 103_000), slice(-3000, None)]
    )
    def test_large_values_in_one_corner(self, ratio: float, corner: slice) -> None:
        v = self.normal()
        v[corner] *= 1e6
        check(ratio, v)

    @pytest.mark.parametrize("period", [16, 1024, 1552, 1562, 2048, 4096])
    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    def test_periods(self, ratio: float, period: int, scale: float) -> None:
        v = self.normal()
        v[np.arange(self.size) % period < 16] *= np.float32(scale)
        check(ratio, v)

    def test_sample_that_sees_only_the_smallest_or_only_the_largest(self, ratio: float) -> None:
        # The sample's groups lie a fixed number of entries apart.
        for inside, outside in ((0.0, 1.0), (1.0, 0.0)):
            for stride in range(1536, 1600, 16):
                v = self.normal() * np.float32(outside)
                places = np.arange(self.size) % stride < 16
                v[places] = inside * (2 + self.normal()[places])
                check(ratio, v)

    def test_sorted(self, ratio: float) -> None:
        ascending = np.sort(np.abs(self.normal()))
        check(ratio, ascending)
        check(ratio, ascending[::-1].copy())

    def test_all_exponents(self, ratio: float) -> None:
        exponents = np.random.default_rng(3).uniform(-148, 127, self.size)
        check(ratio, np.ldexp(self.normal(), exponents.astype(int)).clip(-1e38, 1e38))

    def test_denormals(self, ratio: float) -> None:
        bits = np.random.default_rng(4).integers(0, 2000, self.size).astype(np.uint32)
        check(ratio, bits.view(np.float32))

    @given(data=st.data())
    def test_drawn_ties(self, ratio: float, data: st.DataObject) -> None:
        numbers = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 1e-40])
        check(ratio, data.draw(arrays(np.float32, st.integers(0, 300), elements=numbers)))


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


SHARED = Layout.of_sizes([600_000, 5, 0, 400_000, 70_000, 17])


@pytest.mark.usefixtures("restored_threads")
class TestThreads:
    @pytest.mark.parametrize("ratio", RATIOS)
    @pytest.mark.parametrize("shape", ["normal", "ascending", "ties"])
    def test_message_and_sum_do_not_depend_on_them(self, ratio: float, shape: str) -> None:
        value, other, start = (normal(SHARED, seed) for seed in (1, 2, 3))
        if shape == "ascending":
            value = value.abs().sort().values
        elif shape == "ties":
            value = value.round()
        results = []
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            own, neighbour = encoded(SHARED, ratio, value), encoded(SHARED, ratio, other, value)
            hat, s = start.clone(), start.clone()
            top_k(ratio).accumulate(SHARED, [own, neighbour], [hat, s], [[1, 0], [0.3, 0.7]])
            results.append([bits_of(each) for each in (hat, s)])
            results[-1] += [own.payload.numpy(), neighbour.payload.numpy()]
        expected = [definition(part.numpy(), ratio) for part in SHARED.views(value)]
        np.testing.assert_array_equal(
            results[0][0], bits_of(start.numpy() + np.concatenate(expected))
        )
        for again in results[1:]:
            for first, second in zip(results[0], again, strict=True):
                np.testing.assert_array_equal(first, second)

    def test_one_compressor_serves_many(self) -> None:
        torch.set_num_threads(2)
        values = [normal(SHARED, seed) for seed in range(4)]
        one_by_one = [encoded(SHARED, 0.9, value).payload for value in values]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda value: encoded(SHARED, 0.9, value).payload, values))
        for first, second in zip(one_by_one, together, strict=True):
            assert torch.equal(first, second)


@pytest.mark.usefixtures("restored_threads")
class TestMessagesFromElsewhere:
    def accumulate_within_canaries(
        self, layout: Layout, ratio: float, payload: torch.Tensor
    ) -> None:
        buffer = torch.full((2, layout.num_entries + 2 * CANARY_ENTRIES), -7.0)
        targets = [row[CANARY_ENTRIES : CANARY_ENTRIES + layout.num_entries] for row in buffer]
        messages = [Message(payload), Message(payload.flip(0))]
        top_k(ratio).accumulate(layout, messages, targets, [[1.0, 0.5], [0.0, 2.0]])
        assert (buffer[:, :CANARY_ENTRIES] == -7.0).all()
        assert (buffer[:, CANARY_ENTRIES + layout.num_entries :] == -7.0).all()

    @given(data=st.data())
    def test_any_bytes(self, data: st.DataObject) -> None:
        layout = Layout.of_sizes(data.draw(st.lists(st.integers(0, 100), max_size=4)))
        ratio = data.draw(st.sampled_from(RATIOS))
        num_bytes = top_k(ratio).message_bytes(layout)
        drawn = data.draw(st.binary(min_size=num_bytes, max_size=num_bytes))
        payload = torch.tensor(list(drawn), dtype=torch.uint8)
        self.accumulate_within_canaries(layout, ratio, payload)

    @pytest.mark.parametrize("ratio", RATIOS)
    @pytest.mark.parametrize("num_threads", [1, 3])
    def test_large_ones(self, ratio: float, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        num_bytes = top_k(ratio).message_bytes(SHARED)
        generator = torch.Generator().manual_seed(5)
        drawn = torch.randint(0, 256, (num_bytes,), dtype=torch.uint8, generator=generator)
        for payload in (drawn, torch.zeros_like(drawn), torch.full_like(drawn, 0xFF)):
            self.accumulate_within_canaries(SHARED, ratio, payload)


BAD = [math.nan, math.inf, -math.inf]


class TestNotFinite:
    @pytest.mark.parametrize(
        ("ratio", "bad", "place"), pairwise(RATIOS, BAD, [0, 12_345, 65_535, 65_536, 199_999])
    )
    def test_tensor_is_named(self, ratio: float, bad: float, place: int) -> None:
        shapes = ((3,), (200_000,), (100,))
        layout = Layout(("bias", "weight", "last"), shapes)
        v = normal(layout, 1)
        v[3 + place] = bad
        v[-1] = bad
        with pytest.raises(NotFiniteError, match="tensor weight holds NaN or infinity"):
            encoded(layout, ratio, v)
        with pytest.raises(NotFiniteError, match="tensor weight holds NaN or infinity"):
            encoded(layout, ratio, normal(layout, 2), v)

    @pytest.mark.parametrize("ratio", RATIOS)
    @pytest.mark.parametrize("bad", BAD)
    def test_many_do_not_hide(self, ratio: float, bad: float) -> None:
        layout = Layout.of_sizes([200_000])
        for v in (torch.full((200_000,), bad), torch.zeros(200_000)):
            v[77] = bad
            with pytest.raises(NotFiniteError):
                encoded(layout, ratio, v)

    @pytest.mark.parametrize("ratio", RATIOS)
    @pytest.mark.parametrize("bad", BAD)
    def test_of_a_few(self, ratio: float, bad: float) -> None:
        with pytest.raises(NotFiniteError, match="tensor 1 "):
            encoded(Layout.of_sizes([2, 3]), ratio, torch.tensor([1.0, 2.0, 0.0, bad, 0.0]))


def test_difference_that_overflows_is_named() -> None:
    largest = torch.full((4,), torch.finfo(torch.float32).max)
    with pytest.raises(NotFiniteError):
        encoded(Layout.of_sizes([4]), 0.5, largest, -largest)


@pytest.fixture(scope="module")
def layouts() -> list[Layout]:
    small = make_model("resnet20", (3, 32, 32), 10, seed=1, flags={})
    with torch.device("meta"):
        large = resnet50()
    return [Layout.of(model.named_parameters()) for model in (small, large)]


class TestMessageSize:
    @pytest.mark.parametrize("ratio", RATIOS)
    def test_is_within_theory(self, layouts: list[Layout], ratio: float) -> None:
        for layout in layouts:
            selected = sum(selected_entries(size, ratio) for size in layout.sizes)
            position_bits = selected * (2 + math.log2(layout.num_entries / selected))
            num_bytes = top_k(ratio).message_bytes(layout)
            assert 4 * selected < num_bytes <= 4 * selected + position_bits / 8 + 2

    def test_hundredth_takes_41_bits_an_entry(self, layouts: list[Layout]) -> None:
        for layout in layouts:
            selected = sum(selected_entries(size, 0.99) for size in layout.sizes)
            assert 8 * top_k(0.99).message_bytes(layout) <= 41 * selected

    def test_values_come_first_in_the_order_of_their_positions(self) -> None:
        layout = Layout.of_sizes([4, 0, 3, 1])
        value = torch.tensor([1.0, -5.0, 2.0, 5.0, 0.0, -0.5, 0.25, 9.0])
        payload = encoded(layout, 0.5, value).payload.numpy()
        assert payload[:16].view("<f4").tolist() == [-5.0, 5.0, -0.5, 9.0]
        # Positions 1, 3, 5, 7 of 8: one low bit each, then 0 01 01 01 01 without its first zero.
        assert payload[16:].tolist() == [0b1111, 0b01010101]

    def test_layout_beyond_positions_of_32_bits_is_refused(self) -> None:
        assert top_k(0.99).message_bytes(Layout.of_sizes([2**32])) > 0
        with pytest.raises(UserError, match="at most 4294967296 entries"):
            top_k(0.99).message_bytes(Layout.of_sizes([2**32, 1]))


class TestParameters:
    @pytest.mark.parametrize("ratio", [-0.1, 1.0, 2.0, math.nan])
    def test_ratio_outside_is_refused(self, ratio: float) -> None:
        with pytest.raises(UserError, match="--compress_ratio"):
            top_k(ratio)

    def test_consensus_stepsize_follows_what_is_selected(self) -> None:
        tuned = {0.5: 0.45, 0.9: 0.04, 0.99: 0.0375, 0.0: 0.45, 0.999: 0.0375}
        for ratio, stepsize in tuned.items():
            assert top_k(ratio).default_consensus_stepsize == pytest.approx(stepsize)
        between = 1 - math.sqrt(0.5 * 0.1)
        assert top_k(between).default_consensus_stepsize == pytest.approx(math.sqrt(0.45 * 0.04))

    def test_description_says_what_is_selected(self) -> None:
        for ratio, selected, dropped in (
            (0.99, "1", "99"),
            (0.999, "0.1", "99.9"),
            (0.0, "100", "0"),
        ):
            assert top_k(ratio).description == (
                f"selects the largest {selected} % of the entries of each tensor "
                f"(drops {dropped} %)"
            )

    def test_contraction_is_the_smallest_share(self) -> None:
        assert top_k(0.9).contraction(Layout.of_sizes([10, 0, 199, 20])) == 19 / 199
        assert top_k(0.9).contraction(Layout.of_sizes([0])) == 1.0
