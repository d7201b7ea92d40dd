"""One node in the middle."""

from pcode.topology.base import Topology, metropolis_weights


def star(num_nodes: int) -> Topology:
    """Node 0 is everybody's only neighbour: 1/n on every edge, 1 - 1/n for the outer nodes."""
    return Topology("star", metropolis_weights(num_nodes, ((0, i) for i in range(1, num_nodes))))
