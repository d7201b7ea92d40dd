"""Compressors on a GPU through their own methods: the CPU's messages, and the CPU's sums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from pcode.compression import Compressor, Message, make_compressor
from pcode.utils.errors import UserError
from pcode.utils.layout import Layout
from tests.gpu import needs_gpu

pytestmark = needs_gpu

CASES: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("sign", {}),
    *(("compress_top_k", {"compress_ratio": ratio}) for ratio in (0.99, 0.9, 0.5)),
    *(
        ("compress_random_k", {"compress_ratio": ratio, "is_biased": is_biased})
        for ratio, is_biased in ((0.99, True), (0.5, False))
    ),
    *(("quantize_qsgd", {"quantize_level": level}) for level in (1, 2, 4, 8, 16, 32)),
    ("quantize_qsgd", {"quantize_level": 4, "is_biased": False}),
]
WEIGHTS = ((1.0, 0.0, 0.0), (1 / 3, 1 / 3, -0.1))
SEEDS = range(3)


def resnet50_like() -> Layout:
    """161 tensors and 25.6 M entries in ResNet-50's shapes, in about its order."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for width, num_blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(num_blocks):
            for out, in_, kernel in (
                (width, inputs, 1),
                (width, width, 3),
                (4 * width, width, 1),
            ):
                shapes += [(out, in_, kernel, kernel), (out,), (out,)]
            if block == 0:
                shapes += [(4 * width, inputs, 1, 1), (4 * width,), (4 * width,)]
            inputs = 4 * width
    shapes += [(1000, inputs), (1000,)]
    return Layout(tuple(map(str, range(len(shapes)))), tuple(shapes))


@contextmanager
def nothing_waits() -> Iterator[None]:
    """Raise where something waits for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(scope="module")
def layout() -> Layout:
    found = resnet50_like()
    assert (found.num_tensors, found.num_entries) == (161, 25_557_032)
    return found


@pytest.fixture(params=CASES, ids=lambda case: "-".join(map(str, [case[0], *case[1].values()])))
def compressor(request: pytest.FixtureRequest) -> Compressor:
    name, options = request.param
    return make_compressor(name, **options)


def vectors(layout: Layout) -> list[torch.Tensor]:
    """Normally distributed, at a scale of its own for each tensor."""
    found = [
        torch.randn(layout.num_entries, generator=torch.Generator().manual_seed(seed))
        for seed in SEEDS
    ]
    for vector in found:
        for number, view in enumerate(layout.views(vector)):
            view.mul_(10.0 ** -(number % 5))
    return found


def round_of(
    compressor: Compressor, layout: Layout, inputs: list[torch.Tensor], device: torch.device
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The payloads of three messages, and two targets that they have been added to."""
    value, reference, other = (vector.to(device, copy=True) for vector in inputs)
    num_bytes = compressor.message_bytes(layout)
    messages = [
        Message(torch.full((num_bytes,), 0xFF, dtype=torch.uint8, device=device), seed)
        for seed in SEEDS
    ]
    pairs = (value, reference), (other, None), (reference, value)
    for message, pair in zip(messages, pairs, strict=True):
        compressor.encode(layout, *pair, message)
    targets = [reference, other]
    compressor.accumulate(layout, messages, targets, WEIGHTS)
    return [message.payload.cpu() for message in messages], [target.cpu() for target in targets]


def test_messages_and_sums_are_those_of_the_cpu(compressor: Compressor, layout: Layout) -> None:
    inputs = vectors(layout)
    expected = round_of(compressor, layout, inputs, torch.device("cpu"))
    found = round_of(compressor, layout, inputs, torch.device("cuda"))
    for payload, same in zip(found[0], expected[0], strict=True):
        assert torch.equal(payload, same)
    for target, same in zip(found[1], expected[1], strict=True):
        assert torch.equal(target.view(torch.int32), same.view(torch.int32))


def test_two_runs_give_the_same_bits(compressor: Compressor, layout: Layout) -> None:
    inputs, device = vectors(layout), torch.device("cuda")
    first, second = (round_of(compressor, layout, inputs, device) for _ in range(2))
    for one, other in zip(first[0] + first[1], second[0] + second[1], strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def test_nothing_waits_for_the_gpu(compressor: Compressor) -> None:
    layout = Layout.of_sizes([64, 5, 70_000])
    value, reference, target = (torch.randn(layout.num_entries, device="cuda") for _ in range(3))
    num_bytes = compressor.message_bytes(layout)
    message = Message(torch.zeros(num_bytes, dtype=torch.uint8, device="cuda"), 1)
    # The first calls compile, and copy what follows from the layout to the GPU.
    for _ in range(2):
        compressor.encode(layout, value, reference, message)
        compressor.accumulate(layout, [message], [target], [[0.5]])
    with nothing_waits():
        compressor.encode(layout, value, reference, message)
        # Weights may change from step to step.
        compressor.accumulate(layout, [message], [target], [[0.25]])


def test_vectors_on_two_devices_are_refused(compressor: Compressor) -> None:
    layout = Layout.of_sizes([10])
    payload = torch.zeros(compressor.message_bytes(layout), dtype=torch.uint8)
    value = torch.zeros(10, device="cuda")
    for vector, reference in ((value, None), (value.cpu(), value)):
        with pytest.raises(ValueError, match="expected a contiguous"):
            compressor.encode(layout, vector, reference, Message(payload))
    with pytest.raises(UserError, match="no kernels for device meta"):
        compressor.encode(layout, value.to("meta"), None, Message(payload))
