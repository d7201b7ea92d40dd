"""What BEER and MoTEF sum up in float32 stays small beside a step, however small the rate."""

from __future__ import annotations

import numpy as np
import pytest

from pcode.communication import Communicator, Simulation
from pcode.compression import make_compressor
from pcode.optim import BEER, MoTEF
from pcode.topology import make_topology
from tests.optim.recursions import Array, Tensors, draw, gradient, local_options

# Steps at a rate, and at a thousandth of it.
NUM_STEPS = (600, 100)


@pytest.mark.parametrize("kind", [BEER, MoTEF])
def test_the_sum_over_nodes_is_right_after_the_rate_has_fallen(
    kind: type[BEER],
) -> None:
    """The mean of y is that of the directions, although each node's is another."""
    topology = make_topology("ring", 4)

    def node(communicator: Communicator) -> dict[str, Array]:
        model = Tensors(draw(communicator.rank))
        optimizer = kind(
            model.parameters(),
            communicator,
            topology,
            compressor=make_compressor("sign"),
            consensus_stepsize=0.5,
            **local_options(False),
        )
        for step in range(sum(NUM_STEPS)):
            if step == NUM_STEPS[0]:
                for group in optimizer.param_groups:
                    group["lr"] /= 1000
            optimizer.zero_grad()
            model.give_gradient(gradient(step, communicator.rank))
            optimizer.step()
        return {name: v.double().numpy() for name, v in optimizer.state_dict()["vectors"].items()}

    nodes = Simulation(4).run(node)
    wrong = np.stack([vectors["y"] - vectors["d"] for vectors in nodes])
    largest = max(np.abs(vectors["d"]).max() for vectors in nodes)
    assert np.abs(wrong.mean(axis=0)).max() < 1e-3 * largest
    assert np.abs(wrong).max() > 1e-2 * largest
