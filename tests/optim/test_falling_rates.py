"""BEER, MoTEF and LEAD at rates that change: what rounding leaves stays small beside a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pcode.compression import make_compressor
from pcode.topology import make_topology
from tests.optim.optimizers_by_hand import CASES, Given, same_start
from tests.optim.recursions import (
    LR,
    NUM_STEPS,
    State,
    far,
    gradients,
    local_options,
    run,
    warm_up,
)

# Steps at a rate, and at a thousandth of it.
LONG, SHORT = 600, 100


def falling(step: int) -> float:
    return LR if step < LONG else LR / 1000


def on_ring(name: str, compressor: str, nesterov: bool, **how: Any) -> list[State]:
    """x and the vectors of all steps of four nodes."""
    case, topology = CASES[name], make_topology("ring", 4)
    given = {**case.options, **local_options(nesterov), "compressor": make_compressor(compressor)}
    return run(
        lambda model, node: case.optimizer(model.parameters(), node, topology, **given), 4, **how
    )


@pytest.mark.parametrize("name", ["beer", "motef"])
def test_the_sum_over_nodes_is_right_after_the_rate_has_fallen(name: str) -> None:
    """The mean of y is that of the directions, although each node's is another."""
    last = on_ring(name, "sign", False, rate=falling, num_steps=LONG + SHORT)[-1]
    wrong, largest = last["y"] - last["d"], np.abs(last["d"]).max()
    assert np.abs(wrong.mean(axis=0)).max() < 1e-3 * largest
    assert np.abs(wrong).max() > 1e-2 * largest


def test_corrections_sum_to_0_after_the_rate_has_fallen() -> None:
    """Those of LEAD, which are divided by the rate."""
    e = on_ring("lead", "sign", False, rate=falling, num_steps=LONG + SHORT)[-1]["e"]
    assert np.abs(e.mean(axis=0)).max() < 1e-4 * np.abs(e).max()


@pytest.mark.parametrize("name", ["beer", "motef", "lead"])
def test_a_rate_may_rise_from_0(name: str) -> None:
    """Of equal models, as in the beginning, and of others: nothing is divided by 0."""
    states = on_ring(name, "none", True, rate=warm_up, start=same_start)
    alone, W = states[0], make_topology("ring", 4).matrix
    for number in range(NUM_STEPS):
        given = Given(number + 1, lambda v: v, W, True)
        alone = CASES[name].step(alone, gradients(number, 4), given, lr=warm_up(number))
        assert far(states[number + 1]["x"], alone["x"]) < 1e-5
