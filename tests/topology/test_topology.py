"""What every mixing matrix has to be, and what is computed from it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pcode.topology import Topology, make_topology, metropolis_weights
from pcode.utils.errors import UserError

HALVES = [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        ([[0.5, 0.5]], "n x n, not 1 x 2"),
        (np.zeros((0, 0)), "n x n, not 0 x 0"),
        ([0.5, 0.5], "n x n, not 2"),
        ([[np.nan, 0.5], [0.5, 0.5]], r"n = 2: entry \(0, 0\) is nan"),
        ([[0.5, np.inf], [np.inf, 0.5]], r"n = 2: entry \(0, 1\) is inf"),
        ([[1.5, -0.5], [-0.5, 1.5]], r"n = 2: entry \(0, 1\) is -0.5"),
        ([[0.5, 0.5], [0.4, 0.6]], r"n = 2: not symmetric: .* 0.5, .* 0.4"),
        ([[0.5, 0.4], [0.4, 0.6]], "n = 2: row 0 sums to 0.9"),
        (np.kron(np.eye(2), HALVES), "n = 4: not connected: .* 0 to node 2"),
        ([[0.0, 1.0], [1.0, 0.0]], "n = 2: spectral gap 0"),
    ],
)
def test_a_bad_matrix_is_refused_in_one_line(matrix: np.ndarray, reason: str) -> None:
    with pytest.raises(UserError, match=f"^graph 'mine'.*{reason}") as refusal:
        Topology("mine", np.array(matrix))
    assert "\n" not in str(refusal.value)


def test_a_deviation_beyond_rounding_is_refused_and_rounding_is_not() -> None:
    Topology("mine", np.array(HALVES) + 1e-14)
    with pytest.raises(UserError):
        Topology("mine", np.array(HALVES) + 1e-11)


def test_it_cannot_be_changed() -> None:
    mine = np.array(HALVES)
    topology = Topology("mine", mine)
    mine[0, 0] = 7
    assert topology.matrix[0, 0] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        topology.matrix[0, 0] = 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        topology.name = "yours"  # type: ignore[misc]


def test_edges_neighbours_and_weights() -> None:
    path = Topology("path", np.array([[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]))
    assert path.num_nodes == 3
    assert path.edges == ((0, 1), (1, 2))
    assert [path.neighbours(rank) for rank in range(3)] == [(1,), (0, 2), (1,)]
    assert [path.degree(rank) for rank in range(3)] == [1, 2, 1]
    assert path.weights(0) == {0: 0.5, 1: 0.5}
    assert list(path.weights(1).items()) == [(0, 0.5), (2, 0.5)]  # no self weight, so not listed
    assert {type(j) for j in (*path.neighbours(1), *path.weights(1), *path.edges[0])} == {int}


def test_one_node() -> None:
    alone = Topology("alone", np.ones((1, 1)))
    assert (alone.spectral_gap, alone.beta) == (1, 0)
    assert alone.edges == ()
    assert alone.neighbours(0) == ()
    assert alone.weights(0) == {0: 1.0}


def test_metropolis_weights_of_a_star() -> None:
    star = metropolis_weights(4, [(0, 1), (2, 0), (0, 3), (3, 0)])
    expected = np.array([[1, 1, 1, 1], [1, 3, 0, 0], [1, 0, 3, 0], [1, 0, 0, 3]]) / 4
    np.testing.assert_allclose(star, expected, atol=1e-15)


def test_theoretical_gamma() -> None:
    # A ring of 8 with delta = .01: 3.5e-5, where the tuned value is about .04.
    assert make_topology("ring", 8).theoretical_gamma(0.01) == pytest.approx(3.48e-5, rel=1e-3)
    # Complete graph, no compression: rho = beta = delta = 1.
    assert make_topology("complete", 4).theoretical_gamma(1) == pytest.approx(1 / (17 + 4 + 2 - 8))
