"""Graphs that n alone decides."""

import math
from itertools import pairwise

import numpy as np

from pcode.topology.base import Topology, check_num_nodes, local_degree_weights, metropolis_weights
from pcode.utils.errors import UserError


def complete(num_nodes: int) -> Topology:
    """The complete graph, w_ij = 1/n: one round of mixing is the mean; spectral gap 1."""
    return Topology("complete", np.full((num_nodes, num_nodes), 1 / num_nodes))


def star(num_nodes: int) -> Topology:
    """Node 0 is everybody's only neighbour: 1/n on every edge, 1 - 1/n for the outer nodes."""
    return Topology("star", metropolis_weights(num_nodes, ((0, i) for i in range(1, num_nodes))))


def chain(num_nodes: int) -> Topology:
    """The path 0, 1, ..., n - 1: 1/3 for each neighbour, the rest for the node itself.

    A chain of two is 1/2, 1/2.
    """
    return Topology("chain", metropolis_weights(num_nodes, pairwise(range(num_nodes))))


def ring(num_nodes: int) -> Topology:
    """The cycle 0, 1, ..., n - 1, 0: 1/3 for the node itself and for both sides.

    Two nodes have one edge, not two: 1/2, 1/2. One node is alone: 1.
    """
    edges = ((i, (i + 1) % num_nodes) for i in range(num_nodes))
    return Topology("ring", metropolis_weights(num_nodes, edges))


def data_center(num_nodes: int) -> Topology:
    """The ring, under the name that it had between the machines of a data center."""
    return Topology("data_center", ring(num_nodes).matrix)


def ring_ext(num_nodes: int) -> Topology:
    """The ring and the opposite node, i + n/2: 1/4 for the node itself and its three neighbours.

    n is even and above 3; four nodes are the complete graph.
    """
    check_num_nodes("ring_ext", num_nodes, lambda n: n > 3 and n % 2 == 0, "even and above 3")
    distances = (1, num_nodes // 2)
    edges = ((i, (i + distance) % num_nodes) for i in range(num_nodes) for distance in distances)
    return Topology("ring_ext", metropolis_weights(num_nodes, edges))


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


def hypercube(num_nodes: int) -> Topology:
    """n = 2^m: the neighbours' ranks differ in one bit; 1/(m + 1) for the node and each of them.

    The spectral gap is 2/(m + 1), and 1 for one node.
    """
    check_num_nodes("hypercube", num_nodes, lambda n: n.bit_count() == 1, "a power of 2")
    bits = [1 << k for k in range(num_nodes.bit_length() - 1)]
    edges = ((i, i ^ bit) for i in range(num_nodes) for bit in bits)
    return Topology("hypercube", metropolis_weights(num_nodes, edges))


def torus(num_nodes: int) -> Topology:
    """The m x k grid whose borders are joined, m the largest divisor of n up to sqrt(n).

    Where both sides are at least 3, every node has four neighbours: 1/5 for them and itself.
    On a shorter side two of the four coincide, so that there the weights are the Metropolis
    weights of the edges that remain: 2 x k is a prism, and 1 x k (n a prime) is the ring.
    """
    num_rows = next(m for m in range(math.isqrt(num_nodes), 0, -1) if num_nodes % m == 0)
    num_columns = num_nodes // num_rows
    edges = []
    for node in range(num_nodes):
        row, column = divmod(node, num_columns)
        right = row * num_columns + (column + 1) % num_columns
        below = (node + num_columns) % num_nodes
        edges += [(node, right), (node, below)]
    return Topology("torus", metropolis_weights(num_nodes, edges))


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


def margulis_expander(num_nodes: int) -> Topology:
    """Margulis-Gabber-Galil on Z_k x Z_k, n = k^2: rank k x + y is the point (x, y).

    (x, y) is joined to (x +- 2y, y), (x +- (2y + 1), y), (x, y +- 2x) and (x, y +- (2x + 1))
    modulo k. On small grids some of the eight coincide: an edge counts once, and so does an edge
    to the point itself. The weights are the local-degree weights of what remains, so that only
    points with such an edge, or with a neighbour of larger degree, have a self weight. The gap
    stays bounded away from 0 as k grows.

    Source: Hoory, Linial, Wigderson, "Expander graphs and their applications", 2006,
    construction 8.1; networkx.margulis_gabber_galil_graph.
    """
    import networkx  # noqa: PLC0415  # takes .2 s

    name = "margulis_expander"
    check_num_nodes(name, num_nodes, lambda n: math.isqrt(n) ** 2 == n, "a square")
    side = math.isqrt(num_nodes)
    points = networkx.margulis_gabber_galil_graph(side).edges()
    edges = ((side * x + y, side * u + v) for (x, y), (u, v) in points)
    return Topology(name, local_degree_weights(num_nodes, edges))


def social(num_nodes: int) -> Topology:
    """18 women of a southern town in the 1930s and the 14 events that they attended, n = 32.

    Ranks 0 to 17 are the women, Evelyn Jefferson to Flora Price, 18 to 31 the events E1 to E14,
    both in the order of networkx.davis_southern_women_graph. A woman and an event that she
    attended are neighbours. The weights are the local-degree weights, so that some nodes have no
    self weight.

    Source: Davis, Gardner, Gardner, "Deep South", 1941.
    """
    import networkx  # noqa: PLC0415  # takes .2 s

    graph = networkx.davis_southern_women_graph()
    if num_nodes != len(graph):
        raise UserError(f"graph 'social' with n = {num_nodes}: n must be {len(graph)}")
    ranks = {node: rank for rank, node in enumerate(graph)}
    edges = ((ranks[woman], ranks[event]) for woman, event in graph.edges())
    return Topology("social", local_degree_weights(num_nodes, edges))
