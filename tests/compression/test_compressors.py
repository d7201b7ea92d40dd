"""The compressors against the contract, and what is particular to each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from pcode.compression import COMPRESSORS, Compressor, Message, make_compressor
from pcode.utils.errors import UserError
from pcode.utils.layout import Layout
from tests.compression.compressor_contract import CompressorContract, Floats, bits_of, normal
from tests.support.pages import program


class TestNone(CompressorContract):
    def make(self) -> Compressor:
        return make_compressor("none")

    def definition(self, v: Floats, tensor: int) -> Floats:
        return v

    def delta(self, v: Floats) -> float:
        return 1.0

    def test_message_is_the_difference(self) -> None:
        layout = Layout.of_sizes([3, 20])
        value, reference = normal(layout, 1), normal(layout, 2)
        value[0], reference[0] = -0.0, 0.0
        payload = self.encoded(layout, value, reference).payload
        assert payload.numpy().tobytes() == (value - reference).numpy().tobytes()
        assert len(payload) == 4 * 23
        assert self.make().contraction(layout) == 1.0


class TestSign(CompressorContract):
    # The float64 sum of a few entries of very different size depends on the order.
    drawn_ulp = 1

    def make(self) -> Compressor:
        return make_compressor("sign")

    def definition(self, v: Floats, tensor: int) -> Floats:
        norm = np.float32(math.fsum(map(abs, v.tolist())) / max(v.size, 1))
        signed: Floats = np.where(v < 0, -norm, norm)
        return signed

    def delta(self, v: Floats) -> float:
        wide = v.astype(np.float64)
        return float(np.abs(wide).sum() ** 2 / (v.size * np.square(wide).sum()))

    def test_message_holds_norms_then_bits_from_the_lowest(self) -> None:
        layout = Layout.of_sizes([3, 0, 9])
        value = torch.tensor([1.0, -2.0, 3.0] + [-1.0] * 8 + [-10.0])
        payload = self.encoded(layout, value).payload.numpy()
        assert payload[:12].view("<f4").tolist() == [2.0, 0.0, 2.0]
        assert payload[12:].tolist() == [0b010, 0xFF, 0b1]

    def test_resnet_20_takes_a_thirty_second(self) -> None:
        sizes = [432, 16, 16, 36_864, 64, 10]
        assert self.make().message_bytes(Layout.of_sizes(sizes)) == (
            54 + 2 + 2 + 4608 + 8 + 2 + 4 * len(sizes)
        )

    @pytest.mark.parametrize("shift", [0.0, 1.5])
    def test_zero_is_positive_whatever_its_sign(self, shift: float) -> None:
        layout = Layout.of_sizes([4])
        value = torch.tensor([-0.0, 0.0, -0.0, -4.0])
        reference = torch.tensor([0.0, 0.0, -0.0, 0.0])
        got = self.decoded(layout, self.encoded(layout, value + shift, reference + shift))
        assert got.tolist() == [1.0, 1.0, 1.0, -1.0]

    @pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
    def test_norm_of_ten_million_entries_is_the_exact_one_rounded(self, scale: float) -> None:
        layout = Layout.of_sizes([10_000_019])
        v = scale * (normal(layout, 5) + 0.3)
        norm = self.encoded(layout, v).payload[:4].numpy().copy().view(np.float32)
        exact = math.fsum(np.abs(v.numpy()).astype(np.float64)) / layout.num_entries
        np.testing.assert_array_equal(bits_of(norm), bits_of(np.array([exact], np.float32)))

    def test_norm_of_the_largest_numbers_does_not_overflow(self) -> None:
        layout = Layout.of_sizes([1000])
        largest = torch.finfo(torch.float32).max
        got = self.decoded(layout, self.encoded(layout, torch.full((1000,), -largest)))
        assert (got == -largest).all()

    def test_contraction_is_that_of_a_normal_vector(self) -> None:
        layout = Layout.of_sizes([1_000_000])
        measured = self.delta(normal(layout, 1).numpy())
        assert self.make().contraction(layout) == pytest.approx(measured, rel=0.01)


class TestExampleOfThePage(CompressorContract):
    """The compressor that docs/ writes in a few lines."""

    payload_offset = 2
    largest = 30_000.0

    def make(self) -> Compressor:
        names: dict[str, Any] = {}
        exec(
            program("docs/writing-a-compressor.md", "half").replace(
                'COMPRESSORS["half"] = Half', ""
            ),
            names,
        )
        made: Compressor = names["Half"]()
        return made

    def definition(self, v: Floats, tensor: int) -> Floats:
        return v.astype(np.float16).astype(np.float32)

    def delta(self, v: Floats) -> float:
        return 1 - 2.0**-20


@pytest.mark.parametrize("name", COMPRESSORS)
class TestRefusals:
    def test_the_largest_numbers_are_finite(self, name: str) -> None:
        layout = Layout.of_sizes([100_000, 3])
        compressor = make_compressor(name)
        message = Message(torch.zeros(compressor.message_bytes(layout), dtype=torch.uint8))
        target = torch.zeros(layout.num_entries)
        largest = torch.full_like(target, torch.finfo(torch.float32).max)
        compressor.encode(layout, largest, None, message)
        compressor.accumulate(layout, [message], [target], [[1.0]])
        assert target.isfinite().all()

    def test_tensor_that_does_not_fit(self, name: str) -> None:
        compressor, layout = make_compressor(name), Layout.of_sizes([6, 10])
        good = torch.zeros(16)
        payload = torch.zeros(compressor.message_bytes(layout), dtype=torch.uint8)
        for bad in (good[:-1], good.double(), good.view(4, 4), torch.zeros(32)[::2]):
            with pytest.raises(ValueError, match=r"expected a contiguous .*float32 .* \(16,\)"):
                compressor.encode(layout, bad, None, Message(payload))
            with pytest.raises(ValueError, match="expected a contiguous"):
                compressor.encode(layout, good, bad, Message(payload))
            with pytest.raises(ValueError, match="expected a contiguous"):
                compressor.accumulate(layout, [Message(payload)], [bad], [[1.0]])
        for bad in (payload[:-1], payload.float(), torch.zeros(2 * len(payload)).byte()[::2]):
            with pytest.raises(ValueError, match="expected a contiguous"):
                compressor.encode(layout, good, None, Message(bad))
            with pytest.raises(ValueError, match="expected a contiguous"):
                compressor.accumulate(layout, [Message(bad)], [good], [[1.0]])

    def test_weights_that_do_not_fit(self, name: str) -> None:
        compressor, layout = make_compressor(name), Layout.of_sizes([6])
        message = Message(torch.zeros(compressor.message_bytes(layout), dtype=torch.uint8))
        for weights in ([[1.0, 1.0]], [[1.0], [1.0]], [1.0]):
            with pytest.raises(ValueError, match=r"expected 1 x 1 weights \(targets x messages\)"):
                compressor.accumulate(layout, [message], [torch.zeros(6)], weights)  # type: ignore[arg-type]

    def test_device_without_kernels_is_named(self, name: str) -> None:
        compressor, layout = make_compressor(name), Layout.of_sizes([6])
        payload = torch.zeros(compressor.message_bytes(layout), dtype=torch.uint8)
        with pytest.raises(UserError, match="device meta"):
            compressor.encode(layout, torch.zeros(6, device="meta"), None, Message(payload))


def test_unknown_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"'sing' is not known; built: none, sign"):
        make_compressor("sing")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none", "all entries as float32"),
        ("sign", "1 bit an entry and the mean magnitude of each tensor"),
    ],
)
def test_words_for_the_first_lines(name: str, words: str) -> None:
    assert make_compressor(name).description == words


def test_words_are_the_docstring_where_there_are_no_others() -> None:
    assert TestExampleOfThePage().make().description
