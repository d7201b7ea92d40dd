"""A tree within another graph."""

import numpy as np

from pcode.topology.base import Topology, metropolis_weights


def spanning_tree(num_nodes: int, graph: Topology) -> Topology:
    """Return the breadth-first tree of a graph from its centre: the least deep, Metropolis weights.

    The centre is the node of least eccentricity, on ties that of the lowest rank; nodes hang on the
    first that reaches them, which are asked in the order in which they were reached, their
    neighbours by rank.
    """
    from scipy.sparse import csgraph  # noqa: PLC0415  # few graphs need it

    links = np.where(graph.matrix > 0, 1.0, 0.0)
    centre = int(csgraph.shortest_path(links, unweighted=True).max(axis=1).argmin())
    _, parents = csgraph.breadth_first_order(links, centre)
    edges = [(int(parents[i]), i) for i in range(num_nodes) if i != centre]
    return Topology(f"spanning_tree:{graph.name}", metropolis_weights(num_nodes, edges))
