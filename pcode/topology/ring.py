"""A ring of nodes."""

from pcode.topology.base import Topology, metropolis_weights


def ring(num_nodes: int) -> Topology:
    """Return the cycle 0, 1, ..., n - 1, 0: 1/3 for the node itself and for both sides.

    Two nodes have one edge, not two: 1/2, 1/2. One node is alone: 1.
    """
    edges = ((i, (i + 1) % num_nodes) for i in range(num_nodes))
    return Topology("ring", metropolis_weights(num_nodes, edges))


def data_center(num_nodes: int) -> Topology:
    """Return the ring, under the name that it had between the machines of a data center."""
    return Topology("data_center", ring(num_nodes).matrix)
