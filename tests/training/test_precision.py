"""Loss scaling against torch's own scaler, and what a run in fewer bits computes with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pcode.training.losses import GROWTH_STEPS, LossScaler
from pcode.training.tasks import autocast

CPU = torch.device("cpu")
# Ordinary gradients, one that overflows, and more.
GRADIENTS = [[1.0, -2.0], [0.5, 3.0], [float("inf"), 1.0], [1.0, 1.0], [float("nan"), 0.0], [2, 2]]


def test_the_scale_follows_torch_s_scaler() -> None:
    ours = LossScaler(CPU)
    theirs = torch.amp.GradScaler("cpu")
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    for gradient in GRADIENTS:
        given = torch.tensor(gradient)
        loss = torch.tensor(1.0)
        assert float(ours.scaled(loss)) == float(theirs.scale(loss))
        scaled = given * theirs.get_scale()
        before = parameter.detach().clone()
        parameter.grad = scaled.clone()
        theirs.step(optimizer)
        theirs.update()
        vector = scaled.clone()
        ours.scale_back(vector)
        # A step that torch leaves out is one with a gradient of 0.
        torch.testing.assert_close(before - vector, parameter.detach())
        assert float(ours.scale) == theirs.get_scale()


def test_the_scale_grows_after_many_steps_without_an_overflow() -> None:
    scaler = LossScaler(CPU)
    first = float(scaler.scale)
    for _ in range(GROWTH_STEPS - 1):
        scaler.scale_back(torch.ones(1))
    assert float(scaler.scale) == first
    scaler.scale_back(torch.ones(1))
    assert float(scaler.scale) == 2 * first


def test_its_state_goes_on() -> None:
    one, other = LossScaler(CPU), LossScaler(CPU)
    one.scale_back(torch.tensor([torch.inf]))
    one.scale_back(torch.ones(1))
    other.load_state_dict(one.state_dict())
    assert (float(other.scale), int(other.steps)) == (float(one.scale), 1)


@pytest.mark.parametrize(
    ("amp", "dtype"), [(None, torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_layers_compute_in_the_type(amp: str | None, dtype: torch.dtype) -> None:
    with autocast(amp, CPU):
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype
