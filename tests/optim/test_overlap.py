"""When an exchange is under way after a step, and when none is."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from pcode.communication import Communicator, Simulation
from pcode.optim import OPTIMIZERS, optimizer_class
from pcode.optim.overlapping import OverlappingOptimizer
from pcode.topology import make_graph
from tests.optim.pairings import Pairing, optimizer_of

RING = make_graph("ring", 3)
OVERLAPPING = [
    optimizer
    for optimizer in OPTIMIZERS
    if issubclass(optimizer_class(optimizer, RING), OverlappingOptimizer)
]


def taken_in_late(node: Communicator, name: str, overlap: bool) -> bool:
    """Whether what a first step has sent for changes the node's vectors only after the step."""
    torch.manual_seed(node.rank)
    model = nn.Linear(20, 3)
    for parameter in model.parameters():
        node.average(parameter.data)  # some optimizers ask for equal models
    optimizer = optimizer_of(Pairing(name, "ring", "sign", {}, overlap, {}), model, node, RING)
    model(torch.randn(8, 20)).square().sum().backward()
    optimizer.step()
    vectors = [value for value in vars(optimizer).values() if isinstance(value, torch.Tensor)]
    before = [vector.clone() for vector in vectors]
    optimizer.finish()
    return not all(map(torch.equal, vectors, before))


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("name", OVERLAPPING)
def test_a_step_waits_for_its_exchange_unless_it_may_overlap(name: str, overlap: bool) -> None:
    late = Simulation(3).run(partial(taken_in_late, name=name, overlap=overlap))
    assert late == [overlap] * 3
