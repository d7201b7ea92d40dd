"""Graphs that change from round to round."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pcode.topology import Directed, TimeVarying, Topology, make_graph
from pcode.topology.base import OnePeer
from pcode.training.checkpoint import graph_digest
from pcode.utils.errors import UserError
from tests.topology.topology_contract import check_rounds, matrix

NAMES = ["one_peer_exponential", "random_matching", "equidyn"]


def graph_of(name: str, num_nodes: int, seed: int = 6) -> TimeVarying:
    graph = make_graph(name, num_nodes, seed)
    assert isinstance(graph, TimeVarying)
    return graph


@pytest.mark.parametrize("num_nodes", [*range(1, 18), 31, 32, 33, 128])
@pytest.mark.parametrize("name", NAMES)
def test_every_round_is_doubly_stochastic(name: str, num_nodes: int) -> None:
    graph = graph_of(name, num_nodes)
    check_rounds(graph, num_nodes, range(9))
    assert all(graph.degree(rank) <= 1 for rank in range(num_nodes))


@pytest.mark.parametrize("num_nodes", [1, 2, 4, 8, 64])
def test_one_peer_exponential_averages_exactly(num_nodes: int) -> None:
    graph = graph_of("one_peer_exponential", num_nodes)
    assert graph.period == max(1, int(np.log2(num_nodes)))
    for first in (0, 3):
        product = np.eye(num_nodes)
        for step in range(first, first + graph.period):
            product = graph.at(step).mix(product)
        assert (product == 1 / num_nodes).all()
    assert graph.spectral_gap == 1


@pytest.mark.parametrize("num_nodes", [3, 5, 12, 33])
def test_the_gap_of_one_peer_exponential_is_that_of_its_period(num_nodes: int) -> None:
    graph = graph_of("one_peer_exponential", num_nodes)
    assert graph.period is not None
    product = np.eye(num_nodes)
    for step in range(graph.period):
        product = matrix(graph.at(step), num_nodes) @ product
    left = np.linalg.norm(product - 1 / num_nodes, 2)
    assert graph.spectral_gap == pytest.approx(1 - left ** (1 / graph.period))


def test_one_peer_exponential_sends_to_its_peers_in_turn() -> None:
    graph = graph_of("one_peer_exponential", 8)
    assert [graph.at(step).receivers(6) for step in range(4)] == [(7,), (0,), (2,), (7,)]
    assert [graph.at(step).senders(0) for step in range(4)] == [(7,), (6,), (4,), (7,)]


@pytest.mark.parametrize("num_nodes", [2, 5, 8])
def test_matchings_pair_everybody_and_cover_all_pairs(num_nodes: int) -> None:
    graph = graph_of("random_matching", num_nodes)
    seen = set()
    for step in range(200):
        mixing = graph.at(step)
        peers = [mixing.senders(rank) for rank in range(num_nodes)]
        assert sum(peer == () for peer in peers) == num_nodes % 2
        for rank, peer in enumerate(peers):
            assert mixing.receivers(rank) == peer
            if peer:
                assert peers[peer[0]] == (rank,)
                seen.add((rank, peer[0]))
    assert len(seen) == num_nodes * (num_nodes - 1)


def test_matchings_come_from_seed_and_step() -> None:
    one, again, other = (graph_of("random_matching", 16, seed) for seed in (6, 6, 7))
    rounds = [
        [graph.at(step).senders(rank) for step in (5, 0, 99) for rank in range(16)]
        for graph in (one, again, other)
    ]
    assert rounds[0] == rounds[1] != rounds[2]
    assert one.at(5) is one.at(5)


@pytest.mark.parametrize("num_nodes", [3, 4, 9, 10])
@pytest.mark.parametrize("name", ["random_matching", "equidyn"])
def test_the_gap_of_drawn_rounds_is_the_expected_one(name: str, num_nodes: int) -> None:
    """(1 - gap)^2 is the second eigenvalue of E[W'W], here of a mean over many rounds."""
    graph = graph_of(name, num_nodes)
    rounds = [matrix(graph.at(step), num_nodes) for step in range(4000)]
    mean = np.mean([W.T @ W for W in rounds], axis=0)
    assert (1 - graph.spectral_gap) ** 2 == pytest.approx(np.linalg.eigvalsh(mean)[-2], abs=0.05)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_base_graphs_average_exactly_whatever_n(degree: int) -> None:
    """The product of a period's rounds is 11'/n, and there are few (Theorem 1 of the paper)."""
    for num_nodes in range(1, 65):
        graph = graph_of(f"base:{degree}", num_nodes)
        assert graph.period is not None
        check_rounds(graph, num_nodes, range(graph.period))
        product = np.eye(num_nodes)
        for step in range(graph.period):
            W = matrix(graph.at(step), num_nodes)
            assert (W == W.T).all()
            product = W @ product
        np.testing.assert_allclose(product, 1 / num_nodes, atol=1e-15)
        assert max(map(graph.degree, range(num_nodes))) <= degree
        if num_nodes > 1:
            assert graph.period <= 2 * math.log(num_nodes, degree + 1) + 2


def test_base_graph_of_a_power_is_a_hypercube() -> None:
    graph = graph_of("base", 8)
    found = [sorted((i, j) for i in range(8) for j in graph.at(t).senders(i)) for t in range(3)]
    assert found == [sorted((i, i ^ bit) for i in range(8)) for bit in (1, 2, 4)]


def test_a_static_graph_mixes_alike_in_every_round() -> None:
    ring = make_graph("ring", 5)
    assert isinstance(ring, Topology)
    assert ring.at(7) is ring
    assert ring.senders(0) == ring.receivers(0) == ring.neighbours(0)
    np.testing.assert_array_equal(ring.mix(np.eye(5)), ring.matrix)


@pytest.mark.parametrize("num_nodes", [2, 5, 8])
def test_equidyn_sends_over_every_distance(num_nodes: int) -> None:
    """W = I/2 + A/2, where A has 1/n on the diagonal and the rest at one distance, drawn anew."""
    graph, seen = graph_of("equidyn", num_nodes), set()
    for step in range(100):
        (v,) = graph.at(step).receivers(0)
        A = 2 * matrix(graph.at(step), num_nodes) - np.eye(num_nodes)
        for j in range(num_nodes):
            assert A[j, j] == pytest.approx(1 / num_nodes)
            assert A[(j + v) % num_nodes, j] == pytest.approx((num_nodes - 1) / num_nodes)
        seen.add(v)
    assert seen == set(range(1, num_nodes))


def test_the_gap_of_equidyn_does_not_fall_with_n() -> None:
    assert graph_of("equidyn", 4096).spectral_gap > 1 - 2**-0.5


def test_sources_must_be_a_permutation() -> None:
    with pytest.raises(ValueError, match="no permutation"):
        OnePeer(np.array([0, 0, 1]))


@pytest.mark.parametrize("name", ["ring", "star", "random_matching"])
def test_lost_messages_are_those_that_both_ends_know(name: str) -> None:
    flags = {"drop_messages": 0.25}
    lossy, whole = make_graph(name, 12, 6, flags), make_graph(name, 12, 6)
    sent = came = 0
    for step in range(300):
        before, after = whole.at(step), lossy.at(step)
        W, left = matrix(before, 12), matrix(after, 12)
        np.testing.assert_allclose(left.sum(axis=1), 1, atol=1e-15)
        # Off the diagonal every weight is what it was, or nothing.
        others = ~np.eye(12, dtype=bool)
        assert ((left == W) | (left == 0))[others].all()
        np.testing.assert_allclose(after.mix(np.eye(12)), left, atol=1e-15)
        for rank in range(12):
            assert all(rank in after.senders(peer) for peer in after.receivers(rank))
            assert all(rank in after.receivers(peer) for peer in after.senders(rank))
            sent += len(before.receivers(rank))
            came += len(after.receivers(rank))
    assert came / sent == pytest.approx(0.75, abs=0.03)
    assert lossy.spectral_gap == whole.spectral_gap


def test_without_losses_a_graph_is_itself() -> None:
    assert isinstance(make_graph("ring", 4, 6, {"drop_messages": 0.0}), Topology)


@pytest.mark.parametrize("num_nodes", [1, 2, 5, 8, 13])
def test_directed_exponential_leaves_sums(num_nodes: int) -> None:
    graph = make_graph("directed_exponential", num_nodes)
    assert isinstance(graph, Directed)
    P = matrix(graph.at(3), num_nodes)
    np.testing.assert_allclose(P.sum(axis=0), 1, atol=1e-15)
    np.testing.assert_array_equal(graph.mix(np.eye(num_nodes)), P)
    for rank in range(num_nodes):
        assert set(graph.receivers(rank)) == {
            (rank + (1 << k)) % num_nodes for k in range(8) if 1 << k < num_nodes
        } - {rank}
        assert all(rank in graph.senders(peer) for peer in graph.receivers(rank))


def test_checkpoints_tell_directed_graphs_by_their_weights() -> None:
    P, other = np.full((2, 2), 0.5), np.array([[0.25, 0.5], [0.75, 0.5]])
    first, second, third = (graph_digest(Directed("same", each)) for each in (P, other, P))
    assert first == third != second


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        ([[0.5, 0.5], [0.4, 0.5]], "column 0 sums to 0.9"),
        ([[0.0, 0.5], [1.0, 0.5]], "node 0 has no weight for itself"),
        ([[1.0, 0.5], [0.0, 0.5]], "no path leads from node 0 to node 1"),
        ([[0.5, 0.0], [0.5, 1.0]], "no path leads to node 0 from node 1"),
        ([[-1.0, 0.5], [2.0, 0.5]], r"entry \(0, 0\) is -1"),
    ],
)
def test_what_no_directed_graph_is(matrix: list[list[float]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Directed("wrong", np.array(matrix))
