"""What every topology must be, whatever its edges and weights."""

from __future__ import annotations

from collections.abc import Iterable

import networkx as nx
import numpy as np
import pytest

from pcode.topology import Mixing, TimeVarying, Topology
from pcode.topology.base import Matrix


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


def check_topology(topology: Topology, num_nodes: int) -> None:
    """W is valid, and what is derived from it agrees with networkx and NumPy.

    Raises:
        AssertionError: it does not.
    """
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


def matrix(mixing: Mixing, num_nodes: int) -> Matrix:
    """W from the weights of every rank."""
    W = np.zeros((num_nodes, num_nodes))
    for i in range(num_nodes):
        for j, weight in mixing.weights(i).items():
            W[i, j] = weight
    return W


def check_rounds(graph: TimeVarying, num_nodes: int, rounds: Iterable[int]) -> None:
    """W is doubly stochastic in these rounds, and all nodes agree on who sends to whom.

    Raises:
        AssertionError: it is not, or they do not.
    """
    assert 0 < graph.spectral_gap <= 1
    for step in rounds:
        mixing = graph.at(step)
        W = matrix(mixing, num_nodes)
        assert (W >= 0).all()
        assert (W.sum(axis=0) == 1).all()
        assert (W.sum(axis=1) == 1).all()
        np.testing.assert_array_equal(mixing.mix(np.eye(num_nodes)), W)
        for rank in range(num_nodes):
            heard = [j for j in np.flatnonzero(W[rank]) if j != rank]
            hearing = [j for j in np.flatnonzero(W[:, rank]) if j != rank]
            assert list(mixing.senders(rank)) == heard
            assert list(mixing.receivers(rank)) == hearing
            assert len(heard) <= graph.degree(rank)
