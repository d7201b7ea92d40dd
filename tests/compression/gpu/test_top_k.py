"""Top-k on a GPU: tensors with and without a sample, ties, samples that mislead, torn messages."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pcode.compression import Message
from pcode.compression.base import WeightedSum
from pcode.compression.draws import words_of
from pcode.utils.layout import Layout

pytest.importorskip("triton", reason="there is no Triton for this machine")
from pcode.compression.kernels.gpu.launch import launch
from pcode.compression.top_k import TopK
from pcode.compression.top_k import triton as top_k
from pcode.compression.top_k import triton_sample as sample
from pcode.compression.top_k import triton_selection as selection
from tests.compression.gpu import by_torch
from tests.compression.gpu.cases import DEVICE, Case, drawn, on_cpu, on_gpu

# NumPy speaks of what every processor does: NaN times what a torn message holds.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning:triton")

SAMPLE, TOGETHER = sample.SAMPLE, sample.TOGETHER
ONE = np.ones((1, 1), dtype=np.float32)
KINDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "normal": lambda v: v,
    "zeros": lambda v: 0 * v,
    "constant": lambda v: 0 * v - 2,
    "few values": lambda v: (4 * v).round(),
    "mostly zeros": lambda v: v * (torch.arange(len(v)) % 100 == 7),
    "in descending order": lambda v: v.abs().sort(descending=True).values,
    "large ones in one place": lambda v: torch.where(torch.arange(len(v)) // 900 == 2, 50 * v, v),
}


def case_of(ratio: float) -> Case:
    return Case(top_k, "compress_top_k", {"compress_ratio": ratio})


def sampled(size: int) -> torch.Tensor:
    """Where the entries of a tensor's sample are."""
    numbers, stride = np.arange(SAMPLE), size // (SAMPLE // TOGETHER)
    words = words_of(0, SAMPLE // TOGETHER, 1)[:, 0].astype(np.int64)
    parts = np.arange(len(words)) * stride + words % stride
    return torch.from_numpy(parts[numbers // TOGETHER] // TOGETHER * TOGETHER + numbers % TOGETHER)


def misleading(layout: Layout, seed: int, factor: float) -> torch.Tensor:
    """Normally distributed entries but for those that the sample takes, which are this larger."""
    value = drawn(layout, seed)
    for view in layout.views(value):
        if len(view) > SAMPLE:
            view[sampled(len(view)).unique()] *= factor
    return value


def scaled_by_channel(rows: int, channels: int, seed: int) -> torch.Tensor:
    """As the weights of a 3 x 3 convolution, of which each input channel has its own scale."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.randn(channels, 1, generator=generator).exp()
    return (torch.randn(rows, channels, 9, generator=generator) * scales).flatten()


@pytest.fixture(params=["kernels", "torch"])
def selection_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels, or what they are measured against."""
    if request.param == "torch":
        monkeypatch.setattr(top_k, "_select", by_torch.select)


OTHERS = (pytest.param(ratio, marks=pytest.mark.slow) for ratio in (0.9, 0.0))


@pytest.mark.usefixtures("selection_by")
@pytest.mark.parametrize("ratio", [0.99, 0.5, *OTHERS])
def test_messages_are_those_of_the_cpu(ratio: float) -> None:
    # Of each kind one that is sampled and ends in a segment of a few entries, and one that is not.
    layout = Layout.of_sizes([size for _ in KINDS for size in (16_500, 0, 300)])
    value, case = drawn(layout, 1), case_of(ratio)
    for number, (offset, size) in enumerate(zip(layout.offsets, layout.sizes, strict=True)):
        tensor = value[offset : offset + size]
        tensor[:] = list(KINDS.values())[number // 3](tensor)
    expected = on_cpu(case, layout, value)
    assert torch.equal(on_gpu(case, layout, value).payload.cpu(), expected.payload)


@pytest.mark.usefixtures("selection_by")
@pytest.mark.parametrize("factor", [100.0, 0.01, 0.0])
@pytest.mark.parametrize("ratio", [0.99, 0.6])
def test_a_sample_that_misleads_changes_nothing(factor: float, ratio: float) -> None:
    layout, case = Layout.of_sizes([100, 36_000]), case_of(ratio)
    value = misleading(layout, 1, factor)
    expected = on_cpu(case, layout, value)
    assert torch.equal(on_gpu(case, layout, value).payload.cpu(), expected.payload)


@pytest.mark.parametrize("ratio", [0.99, 0.9, 0.5])
@pytest.mark.parametrize(("rows", "channels"), [(512, 512), (128, 128)])
def test_the_sample_brackets_the_threshold_of_scaled_channels(
    ratio: float, rows: int, channels: int
) -> None:
    value = scaled_by_channel(rows, channels, 1)
    layout = Layout.of_sizes([len(value)])
    plan = top_k._plan(layout, TopK(ratio).selected(layout), DEVICE)
    bracket = torch.empty(1, 2, dtype=torch.int32, device=DEVICE)
    launch(
        sample.bracket,
        1,
        value.to(DEVICE),
        None,
        plan.tensors,
        bracket,
        SAMPLE=SAMPLE,
        TOGETHER=TOGETHER,
    )
    num_selected = int(plan.tensors[0, selection.SELECTED.value])
    threshold = value.abs().topk(num_selected).values[-1]
    lowest, highest = bracket.cpu().view(torch.float32)[0]
    assert lowest <= threshold <= highest
    num_within = int(((value.abs() >= lowest) & (value.abs() <= highest)).sum())
    assert num_within <= int(plan.tensors[0, selection.LIST_ROOM.value])


@pytest.mark.usefixtures("selection_by")
@pytest.mark.parametrize("ratio", [0.99, 0.5])
def test_messages_of_scaled_channels_are_those_of_the_cpu(ratio: float) -> None:
    value, case = scaled_by_channel(64, 64, 1), case_of(ratio)
    layout = Layout.of_sizes([len(value)])
    expected = on_cpu(case, layout, value)
    assert torch.equal(on_gpu(case, layout, value).payload.cpu(), expected.payload)


@pytest.mark.usefixtures("selection_by")
def test_one_entry_selected_of_many() -> None:
    layout, case = Layout.of_sizes([40_000]), case_of(1 - 1e-5)
    value = drawn(layout, 1)
    expected = on_cpu(case, layout, value)
    assert torch.equal(on_gpu(case, layout, value).payload.cpu(), expected.payload)


def test_not_a_number_is_selected_first() -> None:
    layout, case = Layout.of_sizes([20_000, 1000]), case_of(0.99)
    value = drawn(layout, 1)
    value[[31, 19_999]] = torch.nan
    sent = on_gpu(case, layout, value)
    target = torch.zeros(layout.num_entries, device=DEVICE)
    case.accumulate(layout, WeightedSum([sent], [target], ONE))
    assert target.isnan().nonzero().flatten().tolist() == [31, 19_999]


@pytest.mark.parametrize("ratio", [0.99, 0.5, 0.0])
@pytest.mark.parametrize("seed", range(3))
def test_what_no_encoder_wrote_stays_within_the_targets(ratio: float, seed: int) -> None:
    layout, case = Layout.of_sizes([777, 3, 5000]), case_of(ratio)
    num_bytes = case.compressor().message_bytes(layout)
    generator = torch.Generator().manual_seed(seed)
    payload = torch.randint(0, 256, (num_bytes,), dtype=torch.uint8, generator=generator)
    payload[num_bytes // 2 :] |= 0xFF * (seed == 0)
    # Around the target, zeros that are no part of it.
    around = torch.zeros(3 * layout.num_entries, device=DEVICE)
    target = around[layout.num_entries : 2 * layout.num_entries]
    sent = Message(payload.to(DEVICE))
    case_of(ratio).accumulate(layout, WeightedSum([sent], [target], ONE))
    assert target.count_nonzero() > 0
    assert around.count_nonzero() == target.count_nonzero()
