"""Every topology by name: valid weights, or refused by name and n."""

from __future__ import annotations

import math
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from pcode.topology import TOPOLOGIES, make_graph, make_topology
from pcode.topology.binary_tree import Trees
from pcode.utils.errors import UserError
from tests.topology.topology_contract import check_topology, gap_by_power_iteration

NOT_STATIC = ("one_peer_exponential", "directed_exponential", "base", "random_matching", "equidyn")
OF_ANOTHER = ("spanning_tree", "directed")

KNOWN_GAPS = [
    *[("complete", n, 1.0) for n in (1, 2, 3, 8, 16)],
    *[("ring", n, gap) for n, gap in ((1, 1.0), (2, 1.0), (4, 0.667), (8, 0.195), (16, 0.0507))],
    *[("torus", n, gap) for n, gap in ((9, 0.600), (16, 0.400), (25, 0.276), (32, 0.117))],
    *[("margulis_expander", n, gap) for n, gap in ((1, 1.0), (16, 0.461), (25, 0.307))],
    ("social", 32, 0.0903),
    *[("ring_ext", n, gap) for n, gap in ((4, 1.0), (8, 0.500), (16, 0.146))],
    ("data_center", 8, 0.195),
    *[
        ("hypercube", n, gap)
        for n, gap in ((1, 1.0), (2, 1.0), (4, 0.667), (8, 0.500), (32, 0.333))
    ],
    *[("star", n, gap) for n, gap in ((2, 1.0), (4, 0.25), (10, 0.1))],
    *[("chain", n, gap) for n, gap in ((2, 1.0), (3, 0.333))],
    # The tree of three is a chain.
    *[("binary_tree", n, gap) for n, gap in ((2, 1.0), (3, 0.333))],
    *[("expander", n, gap) for n, gap in ((7, 0.295), (13, 0.172), (17, 0.145), (23, 0.122))],
]


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, number))


@pytest.mark.parametrize(("name", "num_nodes", "gap"), KNOWN_GAPS)
def test_the_gap_is_the_known_one(name: str, num_nodes: int, gap: float) -> None:
    tolerance = 0.5 * 10 ** -len(f"{gap}".split(".")[1]) if gap < 1 else 1e-12
    assert make_topology(name, num_nodes).spectral_gap == pytest.approx(gap, abs=1.01 * tolerance)


@pytest.mark.parametrize(("name", "num_nodes", "gap"), KNOWN_GAPS)
def test_power_iteration_finds_the_same_gap(name: str, num_nodes: int, gap: float) -> None:
    topology = make_topology(name, num_nodes)
    assert gap_by_power_iteration(topology) == pytest.approx(topology.spectral_gap, abs=1e-6)


def fits(name: str, num_nodes: int) -> bool:
    """Whether the topology has so many nodes, said a second time."""
    name, _, degree = name.partition(":")
    if name == "random_regular":
        regular = int(degree or 4)
        return regular < num_nodes and regular * num_nodes % 2 == 0
    rules = {
        "expander": is_prime(num_nodes),
        "margulis_expander": num_nodes in {k * k for k in range(1, 12)},
        "social": num_nodes == 32,
        "ring_ext": num_nodes in range(4, 129, 2),
        "hypercube": num_nodes in (1, 2, 4, 8, 16, 32, 64, 128),
    }
    return rules.get(name, True)


STATIC = [
    *(name for name in TOPOLOGIES if name not in NOT_STATIC + OF_ANOTHER),
    "spanning_tree:exponential",
    "random_regular:3",
    "erdos_renyi:0.3",
]


@pytest.mark.parametrize("name", STATIC)
def test_every_n_is_valid_or_refused_by_name_and_n(name: str) -> None:
    for num_nodes in range(1, 129):  # a case for each would take longer than what it tries
        if fits(name, num_nodes):
            check_topology(make_topology(name, num_nodes), num_nodes)
        else:
            with pytest.raises(UserError, match=rf"'{name}\S*' with n = {num_nodes}: .*\d$"):
                make_topology(name, num_nodes)


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
@pytest.mark.parametrize("name", [*TOPOLOGIES, "random_regular:3"])
def test_less_than_one_node_is_refused(name: str, num_nodes: int) -> None:
    with pytest.raises(UserError, match=f"'{name}' with n = {num_nodes}"):
        make_graph(name, num_nodes)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"graph_topology 'rign' is not known; .*complete, ring"):
        make_topology("rign", 4)


@pytest.mark.parametrize("num_nodes", [16, 25])
def test_margulis_edges_are_those_of_the_eight_maps(num_nodes: int) -> None:
    k = int(num_nodes**0.5)
    edges = set()
    for node in range(num_nodes):
        x, y = divmod(node, k)
        for u, v in ((x + 2 * y, y), (x + 2 * y + 1, y), (x, y + 2 * x), (x, y + 2 * x + 1)):
            other = k * (u % k) + v % k
            edges.add((min(node, other), max(node, other)))
    topology = make_topology("margulis_expander", num_nodes)
    assert set(topology.edges) == {(i, j) for i, j in edges if i != j}
    degree = [sum(node in edge for edge in edges) for node in range(num_nodes)]
    for i, j in topology.edges:
        assert topology.weights(i)[j] == pytest.approx(1 / max(degree[i], degree[j]))


def test_social_is_the_women_then_the_events() -> None:
    topology = make_topology("social", 32)
    assert all(woman < 18 <= event for woman, event in topology.edges)
    assert topology.neighbours(0) == (18, 19, 20, 21, 22, 23, 25, 26)  # Evelyn: E1-6, E8, E9
    degree = [topology.degree(rank) for rank in range(32)]
    for i, j in topology.edges:
        assert topology.weights(i)[j] == 1 / max(degree[i], degree[j])
    assert sum(rank not in topology.weights(rank) for rank in range(32)) == 5


def test_ring_ext_and_exponential_weights() -> None:
    assert make_topology("ring_ext", 8).weights(1) == pytest.approx(
        dict.fromkeys((0, 1, 2, 5), 1 / 4)
    )
    assert make_topology("exponential", 9).weights(0) == pytest.approx(
        dict.fromkeys((0, 1, 2, 4, 5, 7, 8), 1 / 7)
    )


@pytest.mark.parametrize("name", ["random_regular", "random_regular:7", "erdos_renyi"])
def test_seeds_reproduce_and_differ(name: str) -> None:
    one, again, other = (make_topology(name, 20, seed).matrix for seed in (6, 6, 7))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@pytest.mark.parametrize("degree", [1, 2, 5, 98, 99])
def test_random_regular_is_regular(degree: int) -> None:
    topology = make_topology(f"random_regular:{degree}", 2 if degree == 1 else 100)
    for rank in range(topology.num_nodes):
        assert topology.degree(rank) == degree
        assert list(topology.weights(rank).values()) == pytest.approx(
            [1 / (degree + 1)] * (degree + 1)
        )


def test_erdos_renyi_has_the_edges_of_its_probability() -> None:
    share = len(make_topology("erdos_renyi:0.3", 100).edges) / (100 * 99 / 2)
    assert share == pytest.approx(0.3, abs=0.03)
    assert len(make_topology("erdos_renyi:1", 10).edges) == 45
    share = len(make_topology("erdos_renyi", 100).edges) / (100 * 99 / 2)
    assert share == pytest.approx(2 * math.log(100) / 100, rel=0.1)


@pytest.mark.parametrize(
    ("name", "num_nodes", "reason"),
    [
        ("random_regular", 4, "n = 4: .*below n; n = 5 or random_regular:3"),
        ("random_regular:3", 5, "n = 5: .*even; random_regular:2 or 4"),
        ("random_regular:1", 4, "not connected; random_regular:2"),
        ("random_regular:2.5", 8, "whole number"),
        ("random_regular:0", 8, "from 1"),
        ("random_regular:1e+300", 8, "below n"),
        ("random_regular:", 8, "'' is not a number"),
        ("erdos_renyi:nan", 8, "'nan' is not a number"),
        ("erdos_renyi:0", 8, "from 1e-12 to 1"),
        ("erdos_renyi:1.5", 8, "from 1e-12 to 1"),
        ("erdos_renyi:0.001", 50, "none of 1000 .* 0.078"),
        ("ring:3", 8, "ring has no parameter; .*random_regular, erdos_renyi"),
        ("random_matching:3", 8, "no parameter"),
        ("rign:3", 8, "'rign:3' is not known"),
        ("random_matching", 8, "changes from round to round"),
        ("spanning_tree", 8, "what graph. as spanning_tree:GRAPH"),
        ("directed:", 8, "what file. as directed:FILE"),
        ("spanning_tree:base:2", 8, "'base:2' .*changes from round to round"),
        ("spanning_tree:directed_exponential", 8, "'directed_exponential' .*is directed"),
        ("spanning_tree:rign", 8, "'rign' is not known"),
        ("equistatic:0", 8, "M must be a whole number from 1 to 7"),
        ("equistatic:2.5", 8, "from 1 to 7"),
        ("equistatic:8", 8, "from 1 to 7"),
    ],
)
def test_parameters_that_will_not_do(name: str, num_nodes: int, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as refusal:
        make_topology(name, num_nodes)
    assert name.removeprefix("spanning_tree:") in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_user_s_function_of_n_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOPOLOGIES, "erdos_renyi", TOPOLOGIES["ring"])
    assert make_topology("erdos_renyi", 8).name == "ring"


@pytest.mark.parametrize("num_nodes", [2, 3, 7, 16, 33])
def test_two_trees_have_each_node_as_a_leaf(num_nodes: int) -> None:
    both = make_topology("double_binary_trees", num_nodes)
    assert isinstance(both, Trees)
    assert {*both.edges} == {edge for tree in both.trees for edge in tree.edges}
    for tree in both.trees:
        assert nx.is_tree(nx.Graph(tree.edges))
        assert max(tree.degree(rank) for rank in range(num_nodes)) <= 3
    # But for the root of one, whose mirror image is in the middle where n is odd.
    inner = [{rank for rank in range(num_nodes) if tree.degree(rank) > 1} for tree in both.trees]
    assert len(inner[0] & inner[1]) <= 1


@pytest.mark.parametrize(
    ("name", "num_nodes"),
    [
        ("social", 32),
        ("torus", 30),
        ("random_regular:3", 20),
        ("double_binary_trees", 15),
        ("chain", 9),
        ("complete", 7),
        ("spanning_tree:social", 32),
    ],
)
def test_a_spanning_tree_is_the_least_deep(name: str, num_nodes: int) -> None:
    of, tree = (make_topology(each, num_nodes, 6) for each in (name, f"spanning_tree:{name}"))
    graph, edges = nx.Graph(of.edges), nx.Graph(tree.edges)
    assert set(tree.edges) <= set(of.edges)
    assert nx.is_tree(edges)
    assert len(edges) == num_nodes
    # From the first centre every node is as far as in the graph, by the first way there is.
    centre = min(nx.center(graph))
    reached = nx.bfs_edges(graph, centre, sort_neighbors=sorted)
    assert set(tree.edges) == {(min(edge), max(edge)) for edge in reached}
    assert nx.eccentricity(edges, centre) == nx.radius(graph)


def test_a_spanning_tree_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "graph.txt").write_text("0 1\n1 2\n2 3\n3 0\n")
    tree = make_topology(f"spanning_tree:{tmp_path / 'graph.txt'}", 4)
    assert tree.edges == ((0, 1), (0, 3), (1, 2))


@pytest.mark.parametrize("num_nodes", [7, 16, 64, 256])
@pytest.mark.parametrize("name", ["equistatic", "equistatic:2", "equistatic:5"])
def test_equistatic_is_the_mean_of_basis_matrices(name: str, num_nodes: int) -> None:
    """W is circulant, of M distances u and as many back; its eigenvalues follow from these."""
    M = int(name[11:]) if ":" in name else math.ceil(math.log2(num_nodes))
    topology = make_topology(name, num_nodes, 6)
    W = topology.matrix
    for i in range(num_nodes):
        np.testing.assert_array_equal(np.roll(W[0], i), W[i])
    shares = W[0] - np.eye(num_nodes)[0] / num_nodes
    times = shares * 2 * M * num_nodes / (num_nodes - 1)
    np.testing.assert_allclose(times, np.round(times), atol=1e-9)
    assert times.sum() == pytest.approx(2 * M)
    assert times[0] == pytest.approx(0, abs=1e-9)
    angles = 2 * np.pi / num_nodes * np.outer(np.arange(1, num_nodes), np.arange(num_nodes))
    others = (np.cos(angles) * W[0]).sum(axis=1)
    assert topology.spectral_gap == pytest.approx(1 - np.abs(others).max())


def test_the_gap_of_equistatic_does_not_fall_with_n() -> None:
    """With M = ceil(log2 n); that of the exponential graph, of as many neighbours, halves."""
    mean = {}
    for n in (16, 64, 256):
        gaps = [make_topology("equistatic", n, seed).spectral_gap for seed in range(20)]
        assert min(gaps) > 0.15
        mean[n] = np.mean(gaps)
    assert mean[64] > 0.33
    assert mean[256] > 0.33
    assert make_topology("exponential", 16).spectral_gap == pytest.approx(0.5)
    assert make_topology("exponential", 256).spectral_gap == pytest.approx(0.25)
