"""A tree of two branches from each node."""

from pcode.topology.base import Topology, metropolis_weights


def binary_tree(num_nodes: int) -> Topology:
    """Return the tree in which node i hangs on node (i - 1) // 2: three neighbours at most."""
    edges = ((i, (i - 1) // 2) for i in range(1, num_nodes))
    return Topology("binary_tree", metropolis_weights(num_nodes, edges))
