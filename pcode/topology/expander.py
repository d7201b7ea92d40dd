"""The 3-regular expander on the residues modulo a prime."""

import numpy as np

from pcode.topology.base import Topology, check_num_nodes, metropolis_weights


def expander(num_nodes: int) -> Topology:
    """Z_p, p = n prime: i has the neighbours i - 1, i + 1 and i^-1 modulo p, 1/3 each.

    0 counts as its own inverse, and so are 1 and p - 1: their third is a self weight; no other
    node has one. Where an inverse is also a neighbour on the cycle (i^2 +- i = 1 has a solution:
    p = 2, p = 5 and p = +-1 modulo 5) two of the three coincide: there the weights are the
    Metropolis weights of the edges that remain. The gap stays bounded away from 0 as p grows.

    Source: Hoory, Linial, Wigderson, "Expander graphs and their applications", 2006, section 2.1.
    """
    check_num_nodes("expander", num_nodes, _is_prime, "a prime")
    cycle = {frozenset((i, (i + 1) % num_nodes)) for i in range(num_nodes)}
    chords = {frozenset((i, pow(i, -1, num_nodes))) for i in range(2, num_nodes - 1)}
    edges = [(min(edge), max(edge)) for edge in cycle | chords]
    if num_nodes == 2 or cycle & chords:
        return Topology("expander", metropolis_weights(num_nodes, edges))
    thirds = np.zeros((num_nodes, num_nodes))
    for i, j in [*edges, (0, 0), (1, 1), (num_nodes - 1, num_nodes - 1)]:
        thirds[i, j] = thirds[j, i] = 1 / 3
    return Topology("expander", thirds)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
