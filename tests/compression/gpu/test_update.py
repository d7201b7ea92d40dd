"""The GPU's local step and mixing against the CPU's, bit for bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="there is no Triton for this machine")

from pcode.optim.sgd_update import SGDUpdate
from pcode.utils.layout import Layout
from tests.compression.gpu.cases import DEVICE, drawn

SIZES = [7, 0, 64, 4096, 4097, 1, 9000]


def step(layout: Layout, nesterov: bool, shift: int) -> SGDUpdate:
    """On a CPU; gradients begin `shift` entries after a multiple of 16 bytes, or where they may."""
    x, buf, z = (drawn(layout, seed) for seed in range(3))
    generator = torch.Generator().manual_seed(3)
    gradients = [torch.randn(size + shift, generator=generator)[shift:] for size in layout.sizes]
    rows = [(0.1 + 0.01 * t, 1e-4 * t, 0.9, nesterov, 0.3) for t in range(layout.num_tensors)]
    return SGDUpdate(layout, x, buf, z, gradients, np.array(rows, dtype=np.float32))


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shift", [0, 1])
def test_it_is_the_cpu_s(nesterov: bool, shift: int) -> None:
    layout = Layout.of_sizes(SIZES)
    cpu = step(layout, nesterov, shift)
    moved = [vector.to(DEVICE, copy=True) for vector in (cpu.x, cpu.buf, cpu.z)]
    gradients = [torch.cat([torch.zeros(shift), each]).to(DEVICE)[shift:] for each in cpu.gradients]
    x, buf, z = moved
    gpu = dataclasses.replace(cpu, x=x, buf=buf, z=z, gradients=gradients)
    for _ in range(2):
        cpu()
        gpu.on_gpu()
    assert torch.equal(gpu.x.cpu(), cpu.x)
    assert torch.equal(gpu.buf.cpu(), cpu.buf)


def test_a_gradient_that_lies_otherwise_is_refused() -> None:
    layout = Layout.of_sizes([4])
    cpu = step(layout, True, 0)
    bad = dataclasses.replace(
        cpu,
        x=cpu.x.to(DEVICE),
        gradients=[torch.zeros(8, device=DEVICE)[::2]],
    )
    with pytest.raises(ValueError, match="contiguous float32 gradients"):
        bad.on_gpu()
