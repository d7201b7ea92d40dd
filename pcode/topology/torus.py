"""A periodic grid, as square as n allows."""

import math

from pcode.topology.base import Topology, metropolis_weights


def torus(num_nodes: int) -> Topology:
    """Return the m x k grid whose borders are joined, m the largest divisor of n up to sqrt(n).

    Where both sides are at least 3, every node has four neighbours: 1/5 for them and itself.
    On a shorter side two of the four coincide, so that there the weights are the Metropolis
    weights of the edges that remain: 2 x k is a prism, and 1 x k (n a prime) is the ring.
    """
    num_rows = next(m for m in range(math.isqrt(num_nodes), 0, -1) if num_nodes % m == 0)
    num_columns = num_nodes // num_rows
    edges = []
    for node in range(num_nodes):
        row, column = divmod(node, num_columns)
        right = row * num_columns + (column + 1) % num_columns
        below = (node + num_columns) % num_nodes
        edges += [(node, right), (node, below)]
    return Topology("torus", metropolis_weights(num_nodes, edges))
