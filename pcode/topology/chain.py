"""Nodes in a line."""

from itertools import pairwise

from pcode.topology.base import Topology, metropolis_weights


def chain(num_nodes: int) -> Topology:
    """Return the path 0, 1, ..., n - 1: 1/3 for each neighbour, the rest for the node itself.

    A chain of two is 1/2, 1/2.
    """
    return Topology("chain", metropolis_weights(num_nodes, pairwise(range(num_nodes))))
