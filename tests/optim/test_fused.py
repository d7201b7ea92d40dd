"""Receiving, the local step and the next message in one pass: the bits of one after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pcode.compression import Compressor, Message
from pcode.optim.fused import FUSED_STEPS
from pcode.optim.sgd_update import SGDUpdate
from pcode.utils.errors import NotFiniteError
from pcode.utils.layout import Layout

# Shorter and longer than lanes, blocks and segments, and no multiple of any.
SIZES = [1, 15, 16, 17, 1024, 1025, 70_001, 131_072, 3]
LAYOUT = Layout.of_sizes(SIZES)
WEIGHTS = [[0.0, 1.0, 0.0], [0.25, -0.75, 0.5]]


class Node:
    """Vectors, messages that have come in, and room for one that goes out."""

    def __init__(self, compressor: Compressor, nesterov: bool = True) -> None:
        draw = torch.Generator().manual_seed(0)

        def vector() -> torch.Tensor:
            return torch.randn(LAYOUT.num_entries, generator=draw)

        self.x, self.buf, self.hat, self.z, gradient = (vector() for _ in range(5))
        self.messages = []
        for _ in range(3):
            self.messages.append(self.room(compressor))
            compressor.encode(LAYOUT, vector(), None, self.messages[-1])
        self.out = self.room(compressor)
        rows = [(0.1 + tensor, 0.01, 0.9, nesterov, 0.4) for tensor in range(len(SIZES))]
        coefficients = np.array(rows, dtype=np.float32)
        # Not where a flat vector would have them.
        self.gradients = [view.clone() for view in LAYOUT.views(gradient)]
        self.update = SGDUpdate(LAYOUT, self.x, self.buf, self.z, self.gradients, coefficients)

    @staticmethod
    def room(compressor: Compressor) -> Message:
        return Message(torch.empty(compressor.message_bytes(LAYOUT), dtype=torch.uint8))

    def state(self) -> list[torch.Tensor]:
        return [self.x, self.buf, self.hat, self.z, self.out.payload]


@pytest.fixture(params=FUSED_STEPS)
def compressor(request: pytest.FixtureRequest) -> Compressor:
    made: Compressor = request.param()
    return made


def fused_step(compressor: Compressor, node: Node, messages: list[Message]) -> None:
    weights = [row[: len(messages)] for row in WEIGHTS]
    step = FUSED_STEPS[type(compressor)]
    step(node.update, messages, [node.hat, node.z], weights, node.hat, node.out)


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("num_messages", [0, 3])
@pytest.mark.parametrize("nesterov", [True, False])
def test_one_pass_gives_the_bits_of_three(
    compressor: Compressor, num_messages: int, nesterov: bool, num_threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        one, three = Node(compressor, nesterov), Node(compressor, nesterov)
        fused_step(compressor, one, one.messages[:num_messages])
        if num_messages:
            compressor.accumulate(LAYOUT, three.messages, [three.hat, three.z], WEIGHTS)
        three.update()
        compressor.encode(LAYOUT, three.x, three.hat, three.out)
    finally:
        torch.set_num_threads(before)
    for found, wanted in zip(one.state(), three.state(), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("nesterov", [True, False])
def test_update_is_sgd_and_mixing_as_numpy_has_them(compressor: Compressor, nesterov: bool) -> None:
    node = Node(compressor, nesterov)
    x, buf, z = (vector.double().numpy().copy() for vector in (node.x, node.buf, node.z))
    gradient = torch.cat(node.gradients).double().numpy()
    lr = np.repeat(0.1 + np.arange(len(SIZES)), SIZES)
    direction = gradient + 0.01 * x
    buf = 0.9 * buf + direction
    x -= lr * (direction + 0.9 * buf if nesterov else buf)
    node.update()
    assert np.allclose(node.buf, buf, atol=1e-6)
    assert np.allclose(node.x, x + 0.4 * z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(compressor: Compressor, bad: float) -> None:
    node = Node(compressor)
    node.gradients[6][70_000] = bad
    with pytest.raises(NotFiniteError, match=LAYOUT.names[6]):
        fused_step(compressor, node, node.messages)
