"""RelaySGD, against NumPy steps of its paper with a message for each direction of each edge."""

from __future__ import annotations

import numpy as np
import pytest

from pcode.optim import RelaySGD
from pcode.topology import Graph, Topology, make_graph, make_topology
from pcode.topology.binary_tree import Trees
from pcode.utils.errors import UserError
from tests.optim.recursions import (
    NUM_ENTRIES,
    NUM_STEPS,
    Array,
    draw,
    far,
    gradients,
    local_step,
    plain,
)


def by_hand(topology: Topology, nesterov: bool, lossy: Graph | None = None) -> Array:
    """x after all steps, with a message and a number for each direction of each edge.

    What does not come is a sum of no models.
    """
    n = topology.num_nodes
    edges = [(i, j) for i in range(n) for j in topology.neighbours(i)]
    sums = {edge: np.zeros(NUM_ENTRIES) for edge in edges}
    numbers = dict.fromkeys(edges, 0)
    state = {"x": np.stack([draw(rank) for rank in range(n)]), "buf": np.zeros((n, NUM_ENTRIES))}
    for number in range(NUM_STEPS):
        state = local_step(state, gradients(number, n), nesterov)
        x = state["x"]
        others = {(i, j): [k for k in topology.neighbours(i) if k != j] for i, j in edges}
        sums = {(i, j): x[i] + sum(sums[k, i] for k in others[i, j]) for i, j in edges}
        numbers = {(i, j): 1 + sum(numbers[k, i] for k in others[i, j]) for i, j in edges}
        for i, j in edges:
            if i not in (lossy or topology).at(number).senders(j):
                sums[i, j], numbers[i, j] = np.zeros(NUM_ENTRIES), 0
        came = [sum(sums[j, i] for j in topology.neighbours(i)) for i in range(n)]
        counts = [sum(numbers[j, i] for j in topology.neighbours(i)) for i in range(n)]
        x = np.stack([(came[i] + (n - counts[i]) * x[i]) / n for i in range(n)])
        state = {**state, "x": x}
    return state["x"]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(
    ("graph", "num_nodes"), [("chain", 4), ("spanning_tree:torus", 9), ("star", 5)]
)
def test_it_is_its_recursion(graph: str, num_nodes: int, nesterov: bool) -> None:
    topology = make_topology(graph, num_nodes)
    states = plain(RelaySGD, topology, nesterov)
    assert far(states[-1]["x"], by_hand(topology, nesterov)) < 1e-5


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
