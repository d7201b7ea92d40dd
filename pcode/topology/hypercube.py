"""The corners of a cube of m dimensions."""

from pcode.topology.base import Topology, check_num_nodes, metropolis_weights


def hypercube(num_nodes: int) -> Topology:
    """n = 2^m: the neighbours' ranks differ in one bit; 1/(m + 1) for the node and each of them.

    The spectral gap is 2/(m + 1), and 1 for one node.
    """
    check_num_nodes("hypercube", num_nodes, lambda n: n.bit_count() == 1, "a power of 2")
    bits = [1 << k for k in range(num_nodes.bit_length() - 1)]
    edges = ((i, i ^ bit) for i in range(num_nodes) for bit in bits)
    return Topology("hypercube", metropolis_weights(num_nodes, edges))
