"""The graph of the nodes that are left when others are lost."""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from pcode.topology.base import Graph, Topology
from pcode.topology.ring import ring
from pcode.topology.weights import metropolis_weights
from pcode.utils.errors import UserError


def surviving_graph(graph: Graph, survivors: Sequence[int], remade: Graph | None) -> Graph:
    """Return the graph on which survivors go on; their new ranks are their places in the list.

    Args:
        graph: of all nodes before.
        survivors: their ranks in it, ascending.
        remade: the same kind of graph with so many nodes, or None where there is none. It is
            taken where there is one (a ring stays a ring); else the links that are left, by
            Metropolis' rule; else, where these fall apart, a ring.
    """
    if remade is not None:
        return remade
    num_nodes = len(survivors)
    if isinstance(graph, Topology):
        left = np.argwhere(graph.matrix[np.ix_(survivors, survivors)] > 0)
        weights = metropolis_weights(num_nodes, ((int(i), int(j)) for i, j in left))
        with suppress(UserError):  # they are not connected
            return Topology(f"{graph.name} without {graph.num_nodes - num_nodes}", weights)
    return ring(num_nodes)
