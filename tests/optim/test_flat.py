"""The flat store, and what users of torch optimizers expect of an optimizer."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from pcode.communication import Communicator, Simulation
from pcode.compression import make_compressor
from pcode.optim import DPSGD, DecentralizedOptimizer, ParallelChoco, parameter_groups
from pcode.topology import make_topology
from tests.support.programs import ROOT


def alone(
    model: nn.Module, optimizer_of: type[DecentralizedOptimizer] = DPSGD, **options: Any
) -> DecentralizedOptimizer:
    """An optimizer of a single node."""
    optimizers: list[DecentralizedOptimizer] = []
    if optimizer_of is ParallelChoco:
        options |= {"compressor": make_compressor("sign"), "consensus_stepsize": 0.4}

    def node(communicator: Communicator) -> None:
        ring = make_topology("ring", 1)
        optimizers.append(optimizer_of(model.parameters(), communicator, ring, lr=0.1, **options))

    Simulation(1).run(node)
    return optimizers[0]


def test_a_step_does_not_import_the_compiler() -> None:
    """Which takes each rank a second: torch's own optimizers wrap their methods for it."""
    program = """
import sys
import torch
from tests.optim.test_flat import ParallelChoco, alone
model = torch.nn.Linear(2, 2)
optimizer = alone(model, ParallelChoco)
optimizer.zero_grad()
model(torch.ones(2)).sum().backward()
optimizer.step()
optimizer.state_dict()
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


def test_parameters_and_gradients_are_views_of_the_flat_vectors() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    before = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    optimizer = alone(model)
    assert torch.equal(optimizer.x, before)
    optimizer.x.fill_(2)
    optimizer.g.fill_(3)
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert bool((parameter == 2).all())
        assert bool((parameter.grad == 3).all())


@pytest.mark.parametrize("zero", ["optimizer", "model", "none"])
def test_gradients_arrive_however_they_are_zeroed(zero: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = alone(model)
    inputs = torch.randn(5, 4)
    for _ in range(3):
        if zero == "optimizer":
            optimizer.zero_grad()
        elif zero == "model":
            model.zero_grad(set_to_none=True)
        else:
            model.weight.grad = model.bias.grad = None
        before = optimizer.x.clone()
        functional.mse_loss(model(inputs), torch.ones(5, 3)).backward()
        wanted = torch.autograd.grad(
            functional.mse_loss(model(inputs), torch.ones(5, 3)), list(model.parameters())
        )
        optimizer.step()
        flat = torch.cat([g.reshape(-1) for g in wanted])
        assert torch.allclose(optimizer.x, before - 0.1 * flat)


@pytest.mark.parametrize("optimizer_of", [DPSGD, ParallelChoco])
@pytest.mark.parametrize("form", ["transposed", "sparse"])
def test_gradients_may_lie_as_they_like(
    optimizer_of: type[DecentralizedOptimizer], form: str
) -> None:
    """SGD by hand: one node has nobody to mix with."""
    torch.manual_seed(0)
    model = nn.Embedding(4, 4, sparse=form == "sparse")
    optimizer = alone(model, optimizer_of)
    for row in range(3):
        before = model.weight.detach().clone()
        optimizer.zero_grad()
        if form == "sparse":
            model(torch.tensor([row, row])).square().sum().backward()
            assert model.weight.grad is not None
            assert model.weight.grad.is_sparse
            wanted = torch.zeros(4, 4)
            wanted[row] = 4 * before[row]
        else:
            wanted = torch.randn(4, 4)
            model.weight.grad = wanted.t().contiguous().t()
        optimizer.step()
        assert torch.allclose(model.weight.detach(), before - 0.1 * wanted)


def test_a_parameter_without_gradient_stays() -> None:
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    optimizer = alone(model)
    kept = [p.clone() for p in model[1].parameters()]
    model.zero_grad()
    model[0](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(kept, model[1].parameters(), strict=True))


def test_a_scheduler_of_torch_works_and_groups_keep_their_own_rates() -> None:
    model = nn.Linear(1, 1)
    groups = parameter_groups(model, 0.5, without_decay=["bias"])
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    optimizers: list[DecentralizedOptimizer] = []

    def node(communicator: Communicator) -> None:
        optimizers.append(DPSGD(groups, communicator, make_topology("ring", 1), lr=1.0))

    Simulation(1).run(node)
    optimizer = optimizers[0]
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1], gamma=0.1)
    with torch.no_grad():
        model.weight.fill_(4)
        model.bias.fill_(4)
    optimizer.zero_grad()
    optimizer.step()
    assert (model.weight.item(), model.bias.item()) == (2.0, 4.0)
    scheduler.step()
    optimizer.step()
    assert model.weight.item() == pytest.approx(2.0 - 0.1 * 0.5 * 2)


@pytest.mark.parametrize("overlap", [False, True])
def test_a_restored_optimizer_goes_on_as_if_never_stopped(overlap: bool) -> None:
    topology = make_topology("ring", 4)

    def node(communicator: Communicator) -> torch.Tensor:
        def start() -> tuple[nn.Module, ParallelChoco]:
            torch.manual_seed(communicator.rank)
            model = nn.Linear(9, 5)
            optimizer = ParallelChoco(
                model.parameters(),
                communicator,
                topology,
                compressor=make_compressor("sign"),
                consensus_stepsize=0.4,
                lr=0.1,
                momentum=0.9,
                overlap=overlap,
            )
            return model, optimizer

        def train(model: nn.Module, optimizer: ParallelChoco, steps: range) -> None:
            for step in steps:
                optimizer.zero_grad()
                draw = torch.Generator().manual_seed(100 * step + communicator.rank)
                model(torch.randn(6, 9, generator=draw)).square().mean().backward()
                optimizer.step()

        model, optimizer = start()
        train(model, optimizer, range(5))
        kept = copy.deepcopy(optimizer.state_dict())
        weights = [p.detach().clone() for p in model.parameters()]
        train(model, optimizer, range(5, 9))
        optimizer.finish()
        other_model, other = start()
        train(other_model, other, range(3))  # with overlap, a round is under way then
        other.load_state_dict(kept)
        with torch.no_grad():
            for parameter, value in zip(other_model.parameters(), weights, strict=True):
                parameter.copy_(value)
        train(other_model, other, range(5, 9))
        other.finish()
        assert torch.equal(other.hat, optimizer.hat)
        return other.x - optimizer.x

    for difference in Simulation(4).run(node):
        assert not difference.any()


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        alone(nn.Linear(2, 2).double())
    with pytest.raises(ValueError, match="momentum"):
        alone(nn.Linear(2, 2), nesterov=True)
    with pytest.raises(ValueError, match="laid out"):
        alone(nn.Linear(2, 2)).add_param_group({"params": [nn.Parameter(torch.ones(1))]})

    def node(communicator: Communicator) -> None:
        DPSGD(nn.Linear(1, 1).parameters(), communicator, make_topology("ring", 4), lr=0.1)

    with pytest.raises(ValueError, match="the graph has 4 nodes, the run 1"):
        Simulation(1).run(node)
