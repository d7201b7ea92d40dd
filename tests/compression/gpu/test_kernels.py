"""The GPU's kernels against the CPU's: the same messages, and the same sums of them.

Where there is no GPU, Triton's interpreter runs them on vectors of the CPU (tests/conftest.py).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pcode.compression import Message
from pcode.compression.base import Difference, WeightedSum
from pcode.utils.layout import Layout

pytest.importorskip("triton", reason="there is no Triton for this machine")
from pcode.compression.random_k import triton as random_k
from tests.compression.gpu.cases import CASES, DEVICE, WEIGHTS, Case, drawn, on_cpu, on_gpu, room
from tests.support.pairwise import pairwise

# NumPy speaks of what every processor does: 1 / 0, and NaN as an integer.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning:triton")

# Around a byte of bits, a program's entries and the shuffled tensors' longest; empty ones.
LAYOUTS = [
    [],
    [0],
    [1],
    [7, 0, 8, 9],
    [4095, 4096, 4097, 3],
    [8200, 4],
]


def id_of(value: Case | list[int] | bool) -> str:
    if isinstance(value, Case):
        return value.label
    return f"{len(value)}x{sum(value)}" if isinstance(value, list) else f"{value}"


@pytest.fixture(params=CASES, ids=id_of)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture(params=LAYOUTS, ids=id_of)
def layout(request: pytest.FixtureRequest) -> Layout:
    return Layout.of_sizes(request.param)


@pytest.mark.parametrize(
    ("case", "layout", "has_reference"),
    pairwise(CASES, LAYOUTS, [False, True]),
    indirect=["case", "layout"],
    ids=id_of,
)
def test_messages_are_those_of_the_cpu(case: Case, layout: Layout, has_reference: bool) -> None:
    value, reference = drawn(layout, 1), drawn(layout, 2) if has_reference else None
    expected = on_cpu(case, layout, value, reference)
    found = on_gpu(case, layout, value, reference)
    assert torch.equal(found.payload.cpu(), expected.payload)


@pytest.mark.parametrize("scale", [0.0, 1e-38, 1e20])
def test_numbers_of_any_size_give_the_messages_of_the_cpu(case: Case, scale: float) -> None:
    layout = Layout.of_sizes([100, 5000])
    value, reference = scale * drawn(layout, 1), scale * drawn(layout, 2)
    expected = on_cpu(case, layout, value, reference)
    assert torch.equal(on_gpu(case, layout, value, reference).payload.cpu(), expected.payload)


def test_sums_are_those_of_the_cpu(case: Case, layout: Layout) -> None:
    messages = [on_cpu(case, layout, drawn(layout, seed), None, seed) for seed in range(3)]
    targets = [drawn(layout, seed) for seed in (10, 11)]
    copies = [target.to(DEVICE, copy=True) for target in targets]
    compressor = case.compressor()
    compressor.accumulate(layout, messages, targets, WEIGHTS.tolist())
    received = [Message(each.payload.to(DEVICE), each.key) for each in messages]
    case.accumulate(layout, WeightedSum(received, copies, WEIGHTS))
    for target, copy in zip(targets, copies, strict=True):
        np.testing.assert_array_equal(copy.cpu().view(torch.int32), target.view(torch.int32))


@pytest.mark.parametrize("size", [600, pytest.param(4200, marks=pytest.mark.slow)])
def test_sums_of_many_messages_are_those_of_the_cpu(case: Case, size: int) -> None:
    # As in the middle of a star: more than a launch takes, in another vector the own one alone.
    layout, compressor = Layout.of_sizes([30, size]), case.compressor()
    messages = [on_cpu(case, layout, drawn(layout, seed), None, seed << 50) for seed in range(17)]
    weights = [[0.06 * m for m in range(17)], [float(m == 9) for m in range(17)]]
    targets = [drawn(layout, seed) for seed in (20, 21)]
    copies = [target.to(DEVICE, copy=True) for target in targets]
    compressor.accumulate(layout, messages, targets, weights)
    received = [Message(each.payload.to(DEVICE), each.key) for each in messages]
    added = WeightedSum(received, copies, np.array(weights, np.float32))
    case.accumulate(layout, added)
    for target, copy in zip(targets, copies, strict=True):
        assert torch.equal(copy.cpu().view(torch.int32), target.view(torch.int32))


def test_messages_of_weight_0_are_left_out(case: Case) -> None:
    layout = Layout.of_sizes([100])
    target = drawn(layout, 1).to(DEVICE)
    before, message = target.clone(), room(case, layout, DEVICE)
    for messages in ([message], []):
        weights = np.zeros((1, len(messages)), np.float32)
        case.accumulate(layout, WeightedSum(messages, [target], weights))
    assert torch.equal(target, before)


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_ends_in_the_message(case: Case, number: float) -> None:
    layout = Layout.of_sizes([50, 5000])
    value = drawn(layout, 1)
    value[4000] = number
    if case.kernels is random_k:  # which sends few entries, and not always that one
        value[50:] = number
    target = torch.zeros(layout.num_entries, device=DEVICE)
    message = on_gpu(case, layout, value, None)
    added = WeightedSum([message], [target], np.ones((1, 1), np.float32))
    case.accumulate(layout, added)
    first, second = layout.views(target.cpu())
    assert first.isfinite().all()
    assert not second.isfinite().all()


def test_payloads_are_checked(case: Case) -> None:
    layout = Layout.of_sizes([50])
    vector = torch.zeros(50, device=DEVICE)
    message = room(case, layout, DEVICE)
    shifted = torch.zeros(len(message.payload) + 1, dtype=torch.uint8, device=DEVICE)[1:]
    with pytest.raises(ValueError, match="multiple of four bytes"):
        case.encode(layout, Difference(vector, None), Message(shifted))
