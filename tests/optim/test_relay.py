"""RelaySGD, against NumPy steps of its paper with a message for each direction of each edge."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pcode.optim import RelaySGD
from pcode.topology import Graph, Mixing, Topology, make_graph, make_topology
from pcode.topology.binary_tree import Trees
from pcode.utils.errors import UserError
from tests.optim.recursions import (
    NUM_ENTRIES,
    NUM_STEPS,
    Array,
    State,
    check,
    draw,
    far,
    gradients,
    local_options,
    local_step,
    plain,
    run,
)


def step_of(topology: Topology, nesterov: bool) -> Callable[..., State]:
    """A step from what has come from each neighbour: a sum of models, and their number last."""
    n = topology.num_nodes

    def step(state: State, g: Array, round_: Mixing = topology) -> State:
        stepped = local_step({"x": state["x"], "buf": state["buf"]}, g, nesterov)
        own = np.column_stack([stepped["x"], np.ones(n)])
        came = {f"received_0_{i}": np.zeros_like(own) for i in range(n)}
        for i in range(n):
            for j in round_.receivers(i):
                others = [state[f"received_0_{k}"][i] for k in topology.neighbours(i) if k != j]
                came[f"received_0_{i}"][j] = own[i] + sum(others)
        total = np.sum([*came.values()], axis=0)
        x = (total[:, :-1] + (n - total[:, -1:]) * stepped["x"]) / n
        return {**stepped, "x": x, **came}

    return step


def by_hand(topology: Topology, nesterov: bool, lossy: Graph | None = None) -> Array:
    """x after all steps; what does not come is a sum of no models."""
    n = topology.num_nodes
    state = {f"received_0_{i}": np.zeros((n, NUM_ENTRIES + 1)) for i in range(n)}
    state |= {"x": np.stack([draw(i) for i in range(n)]), "buf": np.zeros((n, NUM_ENTRIES))}
    for number in range(NUM_STEPS):
        round_ = (lossy or topology).at(number)
        state = step_of(topology, nesterov)(state, gradients(number, n), round_)
    return state["x"]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(
    ("graph", "num_nodes"), [("chain", 4), ("chain", 8), ("spanning_tree:torus", 9), ("star", 5)]
)
def test_it_is_its_recursion(graph: str, num_nodes: int, nesterov: bool) -> None:
    """Each message of each step, and the models."""
    topology, options = make_topology(graph, num_nodes), local_options(nesterov)
    states = run(
        lambda model, node: RelaySGD(model.parameters(), node, topology, **options),
        num_nodes,
        of_edges=True,
    )
    check(states, step_of(topology, nesterov))


def test_it_replaces_what_is_lost_by_its_own() -> None:
    chain, lossy = make_topology("chain", 4), make_graph("chain", 4, 6, {"drop_messages": 0.4})
    states = plain(RelaySGD, lossy, True)
    assert far(states[-1]["x"], by_hand(chain, True, lossy)) < 1e-5
    assert far(states[-1]["x"], by_hand(chain, True)) > 1e-2


def test_it_brings_every_model_once_by_its_distance() -> None:
    """Without gradients x_i = 1/n sum_j x_j of as many rounds ago as nodes are between them."""
    topology = make_topology("chain", 4)
    states = plain(RelaySGD, topology, False, lr=0.0)
    for number in range(4, 20):
        for i in range(4):
            came = [states[number - abs(i - j) + 1]["x"][j] for j in range(4) if j != i]
            want = (np.sum(came, axis=0) + states[number]["x"][i]) / 4
            assert far(states[number + 1]["x"][i], want) < 1e-5


def test_on_two_trees_it_is_itself_on_each_with_its_half() -> None:
    both = make_topology("double_binary_trees", 6)
    assert isinstance(both, Trees)
    got = plain(RelaySGD, both, True)[-1]["x"]
    half = NUM_ENTRIES - NUM_ENTRIES // 2
    first, second = (by_hand(tree, True) for tree in both.trees)
    assert far(got[:, :half], first[:, :half]) < 1e-5
    assert far(got[:, half:], second[:, half:]) < 1e-5


def test_it_refuses_what_is_no_tree() -> None:
    with pytest.raises(UserError, match=r"'ring' has circles: --graph_topology .*_tree:ring$"):
        RelaySGD.validate(make_topology("ring", 4))
    RelaySGD.validate(make_topology("spanning_tree:ring", 4))
