"""What every compressor must do, whatever its Q: subclass, and give Q in NumPy."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Container, Sequence
from itertools import product
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from pcode.compression import Compressor, Message
from pcode.utils.errors import NotFiniteError
from pcode.utils.layout import Layout
from tests.support.pairwise import cover

Floats = NDArray[np.float32]
CANARY_ENTRIES = 8
LAYOUTS = [
    [1],
    [7],
    [8],
    [9],
    [31],
    [32],
    [33],
    [0],
    [],
    [1_000_000],
    [4096, 4097, 8191, 12_288],
    [0, 1, 0, 16, 3, 17, 0],
    [(7 * index) % 61 for index in range(300)],
]


def normal(layout: Layout, seed: int) -> torch.Tensor:
    return torch.randn(layout.num_entries, generator=torch.Generator().manual_seed(seed))


def bits_of(vector: torch.Tensor | Floats) -> NDArray[np.int32]:
    """To compare bit for bit: 0.0 and -0.0 differ, a NaN equals itself."""
    return np.asarray(vector, dtype=np.float32).view(np.int32)


class CompressorContract(ABC):
    # The offset of the payload in memory; what no alignment is needed for takes the hardest.
    payload_offset: ClassVar[int] = 1
    # Magnitudes and units in the last place for drawn vectors.
    largest: ClassVar[float] = 2.0**126
    drawn_ulp: ClassVar[int] = 0
    # Keys over which the error of a Q that draws is averaged.
    num_keys: ClassVar[int] = 1
    # Numbers of the LAYOUTS that are tried by default.
    layouts: ClassVar[Container[int]] = range(len(LAYOUTS))

    @abstractmethod
    def make(self) -> Compressor:
        """A new compressor."""

    @abstractmethod
    def definition(self, v: Floats, tensor: int) -> Floats:
        """Q(v) of the tensor of that number, from the formula, with what key 0 draws."""

    @abstractmethod
    def delta(self, v: Floats) -> float:
        """The largest delta that the theory gives for this v."""

    def num_added(self, layout: Layout) -> int:
        """How many entries of a target a message adds to."""
        return layout.num_entries

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "layout" not in metafunc.fixturenames:
            return
        metafunc.parametrize(
            "layout",
            [
                pytest.param(
                    Layout.of_sizes(sizes),
                    id=f"{len(sizes)}x{sum(sizes)}",
                    marks=[] if number in self.layouts else [pytest.mark.slow],
                )
                for number, sizes in enumerate(LAYOUTS)
            ],
        )

    def expected(self, layout: Layout, v: torch.Tensor) -> Floats:
        parts = [
            self.definition(view.numpy(), tensor) for tensor, view in enumerate(layout.views(v))
        ]
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def encoded(
        self,
        layout: Layout,
        value: torch.Tensor,
        reference: torch.Tensor | None = None,
        key: int = 0,
    ) -> Message:
        compressor = self.make()
        buffer = torch.zeros(
            self.payload_offset + compressor.message_bytes(layout), dtype=torch.uint8
        )
        message = Message(buffer[self.payload_offset :], key)
        compressor.encode(layout, value, reference, message)
        return message

    def decoded(self, layout: Layout, message: Message) -> torch.Tensor:
        target = torch.zeros(layout.num_entries)
        self.make().accumulate(layout, [message], [target], [[1.0]])
        return target

    def test_decoded_message_is_the_definition_bit_for_bit(self, layout: Layout) -> None:
        value, reference = normal(layout, 1), normal(layout, 2)
        got = self.decoded(layout, self.encoded(layout, value, reference))
        # 0 + Q(v), as -0.0 becomes +0.0 there.
        expected = 0 + self.expected(layout, value - reference)
        np.testing.assert_array_equal(bits_of(got), bits_of(expected))

    def test_no_reference_stands_for_zero(self) -> None:
        layout = Layout.of_sizes([5, 40, 1])
        value = normal(layout, 1)
        without = self.encoded(layout, value)
        assert torch.equal(without.payload, self.encoded(layout, value, 0 * value).payload)
        np.testing.assert_array_equal(
            bits_of(self.decoded(layout, without)), bits_of(0 + self.expected(layout, value))
        )

    def test_encode_fills_message_bytes_and_no_byte_more(self, layout: Layout) -> None:
        compressor = self.make()
        first, num_bytes = 16 + self.payload_offset, compressor.message_bytes(layout)
        value, reference = normal(layout, 1), normal(layout, 2)
        written = []
        for before in (0x00, 0xFF):
            buffer = torch.full((first + num_bytes + 16,), before, dtype=torch.uint8)
            payload = buffer[first : first + num_bytes]
            compressor.encode(layout, value, reference, Message(payload))
            assert (buffer[:first] == before).all()
            assert (buffer[first + num_bytes :] == before).all()
            written.append(payload)
        # A byte that encode leaves alone would still hold what was there before.
        assert torch.equal(*written)

    def test_accumulate_changes_its_targets_and_nothing_around_them(self, layout: Layout) -> None:
        message = self.encoded(layout, normal(layout, 1))
        payload = message.payload.clone()
        buffer = torch.full((layout.num_entries + 2 * CANARY_ENTRIES,), -7.0)
        target = buffer[CANARY_ENTRIES : CANARY_ENTRIES + layout.num_entries]
        target.zero_()
        self.make().accumulate(layout, [message], [target], [[1.0]])
        assert torch.equal(target, self.decoded(layout, message))
        assert (buffer[:CANARY_ENTRIES] == -7.0).all()
        assert (buffer[CANARY_ENTRIES + layout.num_entries :] == -7.0).all()
        assert torch.equal(message.payload, payload)

    def test_encode_leaves_its_inputs_alone(self) -> None:
        layout = Layout.of_sizes([100, 3])
        value, reference = normal(layout, 1), normal(layout, 2)
        before = value.clone(), reference.clone()
        self.encoded(layout, value, reference)
        assert torch.equal(value, before[0])
        assert torch.equal(reference, before[1])

    def test_inputs_and_targets_need_no_more_than_the_alignment_of_a_float(self) -> None:
        layout = Layout.of_sizes([1000, 77])
        value, reference = normal(layout, 1), normal(layout, 2)
        message = self.encoded(layout, value, reference)
        for shift in range(1, 5):
            moved = [
                torch.cat([torch.zeros(shift), vector])[shift:]
                for vector in (value, reference, torch.zeros(layout.num_entries))
            ]
            again = self.encoded(layout, moved[0], moved[1])
            assert torch.equal(again.payload, message.payload)
            self.make().accumulate(layout, [again], [moved[2]], [[1.0]])
            assert torch.equal(moved[2], self.decoded(layout, message))

    def test_sender_and_receivers_add_the_same_bits(self) -> None:
        layout = Layout.of_sizes([10_000, 5, 333])
        compressor = self.make()
        own, others = (
            self.encoded(layout, normal(layout, 1)),
            self.encoded(layout, normal(layout, 2)),
        )
        start = normal(layout, 3)
        hat, weighted, received = start.clone(), normal(layout, 4), start.clone()
        compressor.accumulate(layout, [own, others], [hat, weighted], [[1.0, 0.0], [1 / 3, 1 / 3]])
        compressor.accumulate(layout, [others, own], [received], [[0.0, 1.0]])
        assert not torch.equal(hat, start)
        np.testing.assert_array_equal(bits_of(received), bits_of(hat))

    def test_weighted_sum_is_rounded_product_by_product_and_sum_by_sum(self) -> None:
        layout = Layout.of_sizes([10_000, 5, 333])
        weights = [[1.0, 0.1, -0.7], [1 / 3, 0.0, 1e-3]]
        messages = [self.encoded(layout, normal(layout, seed)) for seed in range(3)]
        starts = [normal(layout, seed) for seed in (10, 11)]
        together, one_by_one = ([start.clone() for start in starts] for _ in range(2))
        self.make().accumulate(layout, messages, together, weights)
        for target, row in zip(one_by_one, weights, strict=True):
            for message, weight in zip(messages, row, strict=True):
                self.make().accumulate(layout, [message], [target], [[weight]])
        for target, single, start, row in zip(together, one_by_one, starts, weights, strict=True):
            np.testing.assert_array_equal(bits_of(target), bits_of(single))
            expected = start.numpy()
            for message, weight in zip(messages, row, strict=True):
                q = self.decoded(layout, message).numpy()
                expected = expected + np.float32(weight) * q
            np.testing.assert_array_equal(bits_of(target), bits_of(expected))

    def test_weight_zero_leaves_out_whatever_the_message_holds(self) -> None:
        layout = Layout.of_sizes([40, 3])
        # All bits set are NaN in float16 and float32: 0 times it would not be 0.
        garbage = Message(torch.full((self.make().message_bytes(layout),), 0xFF, dtype=torch.uint8))
        target = torch.full((layout.num_entries,), -0.0)
        self.make().accumulate(layout, [garbage], [target], [[0.0]])
        np.testing.assert_array_equal(bits_of(target), bits_of(np.full(43, -0.0, np.float32)))
        self.make().accumulate(layout, [garbage], [target], [[1.0]])
        assert int(target.isnan().sum()) == self.num_added(layout)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("sizes", [[20, 0, 20, 3], [70_000, 70_000]], ids=str)
    def test_first_tensor_that_is_not_finite_is_named(self, bad: float, sizes: list[int]) -> None:
        layout = Layout.of_sizes(sizes)
        for side in range(2):
            for first in np.flatnonzero(sizes).tolist():
                inputs = [normal(layout, 1), normal(layout, 2)]
                for view in layout.views(inputs[side])[first:]:
                    view.fill_(bad)
                with pytest.raises(NotFiniteError, match=f"tensor {first} holds NaN or infinity"):
                    self.encoded(layout, inputs[0], inputs[1])

    def test_error_is_within_the_contraction(self) -> None:
        layout = Layout.of_sizes([1, 10, 1000, 100_000])
        v = normal(layout, 1)
        errors = []
        for key in range(self.num_keys):
            error = self.decoded(layout, self.encoded(layout, v, key=key)) - v
            errors.append([float(part.double().square().sum()) for part in layout.views(error)])
        standard_errors = np.std(errors, axis=0) / math.sqrt(self.num_keys)
        lower = np.mean(errors, axis=0) - 4 * standard_errors
        for part, measured in zip(layout.views(v), lower, strict=True):
            norm = float(part.double().square().sum())
            assert measured <= (1 - self.delta(part.numpy())) * norm + 1e-6 * norm

    @given(data=st.data())
    # Each subclass is its own test; without a database none replays another's example.
    @settings(
        database=None,
        deadline=None,  # users run their subclasses without tests/conftest.py
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
    )
    def test_drawn_vectors(self, data: st.DataObject) -> None:
        sizes = data.draw(st.lists(st.integers(0, 50), min_size=1, max_size=4))
        layout = Layout.of_sizes(sizes)
        numbers = st.floats(-self.largest, self.largest, width=32, allow_subnormal=True)
        vectors = arrays(np.float32, layout.num_entries, elements=numbers)
        value, reference = data.draw(vectors), data.draw(vectors)
        message = self.encoded(layout, torch.from_numpy(value), torch.from_numpy(reference))
        got = self.decoded(layout, message).numpy()
        expected = 0 + self.expected(layout, torch.from_numpy(value - reference))
        np.testing.assert_array_equal(np.signbit(got), np.signbit(expected))
        np.testing.assert_array_max_ulp(got, expected, maxulp=self.drawn_ulp)


def variants(
    contract: type[CompressorContract], **values: Sequence[object]
) -> dict[str, type[CompressorContract]]:
    """A class of tests for each combination of values of the contract's class variables.

    By default any two values, and any value and layout, are tried together; the other layouts are
    slow.
    """
    counts = [len(each) for each in values.values()]
    covered = cover(*counts, len(LAYOUTS))
    classes = {}
    for chosen in product(*map(range, counts)):
        each = [given[index] for given, index in zip(values.values(), chosen, strict=True)]
        name = "_".join([f"Test{contract.__name__}", *map(str, each)])
        attributes = {
            "__module__": contract.__module__,
            "layouts": {layout for *others, layout in covered if tuple(others) == chosen},
            **dict(zip(values, each, strict=True)),
        }
        classes[name] = type(name, (contract,), attributes)
    return classes
