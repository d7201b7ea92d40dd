"""What BEER and MoTEF sum up in float32 stays small beside a step, however small the rate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pcode.compression import make_compressor
from pcode.optim import BEER, MoTEF
from pcode.topology import make_topology
from tests.optim.recursions import LR, local_options, run

# Steps at a rate, and at a thousandth of it.
NUM_STEPS = (600, 100)


@pytest.mark.parametrize("kind", [BEER, MoTEF])
def test_the_sum_over_nodes_is_right_after_the_rate_has_fallen(kind: type[BEER]) -> None:
    """The mean of y is that of the directions, although each node's is another."""
    topology = make_topology("ring", 4)
    given: dict[str, Any] = {"compressor": make_compressor("sign"), "consensus_stepsize": 0.5}
    last = run(
        lambda model, node: kind(
            model.parameters(), node, topology, **given, **local_options(False)
        ),
        4,
        rate=lambda step: LR if step < NUM_STEPS[0] else LR / 1000,
        num_steps=sum(NUM_STEPS),
    )[-1]
    wrong, largest = last["y"] - last["d"], np.abs(last["d"]).max()
    assert np.abs(wrong.mean(axis=0)).max() < 1e-3 * largest
    assert np.abs(wrong).max() > 1e-2 * largest
