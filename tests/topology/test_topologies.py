"""Every topology by name: valid weights, or refused by name and n."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from pcode.errors import UserError
from pcode.topology import TOPOLOGIES, Topology, make_topology

KNOWN_GAPS = [
    *[("complete", n, 1.0) for n in (1, 2, 3, 8, 16)],
    *[("ring", n, gap) for n, gap in ((1, 1.0), (2, 1.0), (4, 0.667), (8, 0.195), (16, 0.0507))],
    *[("torus", n, gap) for n, gap in ((9, 0.600), (16, 0.400), (25, 0.276), (32, 0.117))],
    *[("expander", n, gap) for n, gap in ((7, 0.295), (13, 0.172), (17, 0.145), (23, 0.122))],
]


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, number))


def gap_by_power_iteration(topology: Topology) -> float:
    """1 - |lambda_2|: how fast what is orthogonal to the ones shrinks under W."""
    values = np.random.default_rng(0).standard_normal(topology.num_nodes)
    shrinkage = 0.0
    for _ in range(20_000):
        values -= values.mean()
        norm = np.linalg.norm(values)
        if norm == 0:
            return 1.0
        values = topology.matrix @ (values / norm)
        shrinkage = float(np.linalg.norm(values))
    return 1 - shrinkage


@pytest.mark.parametrize(("name", "num_nodes", "gap"), KNOWN_GAPS)
def test_the_gap_is_the_known_one(name: str, num_nodes: int, gap: float) -> None:
    tolerance = 0.5 * 10 ** -len(f"{gap}".split(".")[1]) if gap < 1 else 1e-12
    assert make_topology(name, num_nodes).spectral_gap == pytest.approx(gap, abs=1.01 * tolerance)


@pytest.mark.parametrize(("name", "num_nodes", "gap"), KNOWN_GAPS)
def test_power_iteration_finds_the_same_gap(name: str, num_nodes: int, gap: float) -> None:
    topology = make_topology(name, num_nodes)
    assert gap_by_power_iteration(topology) == pytest.approx(topology.spectral_gap, abs=1e-6)


@pytest.mark.parametrize("num_nodes", range(1, 65))
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_n_is_valid_or_refused_by_name_and_n(name: str, num_nodes: int) -> None:
    if name == "expander" and not is_prime(num_nodes):
        with pytest.raises(UserError, match=rf"'{name}' with n = {num_nodes}: .*prime"):
            make_topology(name, num_nodes)
        return
    topology = make_topology(name, num_nodes)
    W = topology.matrix
    assert W.shape == (num_nodes, num_nodes)
    assert (W >= 0).all()
    assert (W == W.T).all()
    np.testing.assert_allclose(W.sum(axis=0), 1, atol=1e-14)
    graph = nx.Graph(topology.edges)
    graph.add_nodes_from(range(num_nodes))
    assert nx.is_connected(graph)
    assert 0 < topology.spectral_gap <= 1 + 1e-12
    assert topology.beta == pytest.approx(np.linalg.norm(np.eye(num_nodes) - W, 2), abs=1e-12)
    for rank in range(num_nodes):
        assert topology.neighbours(rank) == tuple(sorted(graph[rank]))
        assert topology.degree(rank) == graph.degree[rank]


def test_ring_weights() -> None:
    for num_nodes in (3, 5, 8):
        topology = make_topology("ring", num_nodes)
        for i in range(num_nodes):
            sides = {(i - 1) % num_nodes, (i + 1) % num_nodes}
            assert topology.weights(i) == pytest.approx(dict.fromkeys({i} | sides, 1 / 3))
    assert make_topology("ring", 2).weights(0) == {0: 0.5, 1: 0.5}
    assert make_topology("ring", 1).weights(0) == {0: 1.0}


def test_torus_weights() -> None:
    topology = make_topology("torus", 12)  # 3 x 4
    assert topology.weights(5) == pytest.approx(dict.fromkeys((1, 4, 5, 6, 9), 1 / 5))
    assert topology.weights(0) == pytest.approx(dict.fromkeys((0, 1, 3, 4, 8), 1 / 5))


def test_torus_with_a_short_side_has_metropolis_weights_of_its_edges() -> None:
    prism = make_topology("torus", 8)  # 2 x 4
    assert prism.neighbours(0) == (1, 3, 4)
    assert prism.weights(0) == pytest.approx(dict.fromkeys((0, 1, 3, 4), 1 / 4))
    np.testing.assert_array_equal(make_topology("torus", 7).matrix, make_topology("ring", 7).matrix)


@pytest.mark.parametrize("prime", [3, 7, 13, 17, 23, 37, 43, 47])
def test_expander_weights_where_chords_are_no_cycle_edges(prime: int) -> None:
    topology = make_topology("expander", prime)
    for i in range(prime):
        inverse = next((j for j in range(prime) if i * j % prime == 1), 0)
        nodes = {(i - 1) % prime, (i + 1) % prime, inverse}
        assert topology.weights(i) == pytest.approx(dict.fromkeys(nodes, 1 / 3))


@pytest.mark.parametrize("prime", [2, 5, 11, 19, 29, 31])
def test_expander_has_metropolis_weights_elsewhere(prime: int) -> None:
    topology = make_topology("expander", prime)
    edges = {(i, (i + 1) % prime) for i in range(prime)}
    edges |= {(i, j) for i in range(prime) for j in range(prime) if i != j and i * j % prime == 1}
    graph = nx.Graph(edges)
    assert set(topology.edges) == {(min(edge), max(edge)) for edge in graph.edges}
    for i, j in topology.edges:
        expected = 1 / (1 + max(graph.degree[i], graph.degree[j]))
        assert topology.weights(i)[j] == pytest.approx(expected)


@pytest.mark.parametrize(("num_nodes", "near"), [(1, "2"), (8, "7 or 11"), (32, "31 or 37")])
def test_expander_names_the_primes_near(num_nodes: int, near: str) -> None:
    with pytest.raises(UserError, match=rf"with n = {num_nodes}: .* {near}$"):
        make_topology("expander", num_nodes)


@pytest.mark.parametrize("num_nodes", [0, -1])
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_less_than_one_node_is_refused(name: str, num_nodes: int) -> None:
    with pytest.raises(UserError, match=f"'{name}' with n = {num_nodes}"):
        make_topology(name, num_nodes)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"graph_topology 'rign' is not known; .*complete, ring"):
        make_topology("rign", 4)
