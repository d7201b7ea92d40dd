"""An 8-regular expander on a square grid."""

import math

from pcode.topology.base import Topology, check_num_nodes, local_degree_weights


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
    import networkx  # noqa: PLC0415  # see base.connected_topology

    name = "margulis_expander"
    check_num_nodes(name, num_nodes, lambda n: math.isqrt(n) ** 2 == n, "a square")
    side = math.isqrt(num_nodes)
    points = networkx.margulis_gabber_galil_graph(side).edges()
    edges = ((side * x + y, side * u + v) for (x, y), (u, v) in points)
    return Topology(name, local_degree_weights(num_nodes, edges))
