"""Neighbours at distances 1, 2, 4, ... around a circle."""

from pcode.topology.base import Topology, metropolis_weights


def exponential(num_nodes: int) -> Topology:
    """Node i has the neighbours i +- 2^k modulo n, 2^k <= n/2: 1/(degree + 1) each and itself.

    Source: Ying et al., "Exponential graph is provably efficient for decentralized deep
    training", 2021, arXiv 2110.13363. Difference: their static graph is directed. There node i
    receives from one side alone, 2^k < n, ceil(log2 n) messages a round, and W is not symmetric;
    CHOCO-SGD needs a symmetric one, so here it receives from both sides, up to twice the
    messages. `one_peer_exponential` is their graph of one message a round.
    """
    distances = [1 << k for k in range(num_nodes.bit_length() - 1)]
    edges = ((i, (i + distance) % num_nodes) for i in range(num_nodes) for distance in distances)
    return Topology("exponential", metropolis_weights(num_nodes, edges))
