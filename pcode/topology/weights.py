"""Mixing weights that follow from the edges of a graph."""

from collections.abc import Iterable

import numpy as np

from pcode.topology.base import TOLERANCE, Matrix


def metropolis_weights(num_nodes: int, edges: Iterable[tuple[int, int]]) -> Matrix:
    """The matrix with w_ij = 1 / (1 + max(deg_i, deg_j)) on edges and the rest on the diagonal.

    Symmetric and doubly stochastic for every graph. The edges may come in any order and direction
    and more than once; an edge from a node to itself changes nothing.

    Source: Xiao, Boyd, Lall, "A scheme for robust distributed sensor fusion based on average
    consensus", 2005: the local-degree weights of the graph with a loop at every node.
    """
    loops = ((i, i) for i in range(num_nodes))
    return local_degree_weights(num_nodes, [*edges, *loops])


def local_degree_weights(num_nodes: int, edges: Iterable[tuple[int, int]]) -> Matrix:
    """The matrix with w_ij = 1 / max(deg_i, deg_j) on edges and the rest on the diagonal.

    Symmetric and doubly stochastic for every graph. An edge from a node to itself, a loop, adds
    one to its degree. Where no neighbour's degree is larger than its own, a node without a loop
    has no self weight; a graph without any (an even cycle) may have the spectral gap 0.

    Source: Xiao and Boyd, "Fast linear iterations for distributed averaging", 2004, section 4.2.
    """
    adjacency = np.zeros((num_nodes, num_nodes), dtype=bool)
    for i, j in edges:
        adjacency[i, j] = adjacency[j, i] = True
    degrees = adjacency.sum(axis=1)
    np.fill_diagonal(adjacency, False)
    matrix = np.zeros((num_nodes, num_nodes))
    matrix[adjacency] = 1 / np.maximum.outer(degrees, degrees)[adjacency]
    rest = 1 - matrix.sum(axis=1)
    np.fill_diagonal(matrix, np.where(rest > TOLERANCE, rest, 0.0))
    return matrix
