"""A ring with the longest chords."""

from pcode.topology.base import Topology, check_num_nodes, metropolis_weights


def ring_ext(num_nodes: int) -> Topology:
    """Join the ring and the opposite node, i + n/2: 1/4 for the node and its three neighbours.

    n is even and above 3; four nodes are the complete graph.
    """
    check_num_nodes("ring_ext", num_nodes, lambda n: n > 3 and n % 2 == 0, "even and above 3")
    distances = (1, num_nodes // 2)
    edges = ((i, (i + distance) % num_nodes) for i in range(num_nodes) for distance in distances)
    return Topology("ring_ext", metropolis_weights(num_nodes, edges))
