"""Everybody is everybody's neighbour."""

import numpy as np

from pcode.topology.base import Topology


def complete(num_nodes: int) -> Topology:
    """Return the complete graph, w_ij = 1/n: one round of mixing is the mean; spectral gap 1."""
    return Topology("complete", np.full((num_nodes, num_nodes), 1 / num_nodes))
