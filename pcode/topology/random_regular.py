"""A random graph in which every node has the same number of neighbours."""

from typing import Any

from pcode.topology.base import Topology, connected_topology
from pcode.utils.errors import UserError


def random_regular(num_nodes: int, seed: int, degree: float = 4) -> Topology:
    """Draw a connected graph of so many neighbours: 1/(degree + 1) for each and the node itself.

    Args:
        seed: the run's; with n and the degree it decides the graph.
        degree: a whole number below n; n * degree is even. From 3 on a random graph is an
            expander with high probability.

    Source: networkx.random_regular_graph (Kim and Vu, 2003); a dense graph is the complement of
    a drawn sparse one, since drawing it takes ever longer as the degree nears n.
    """
    import networkx  # noqa: PLC0415  # see base.connected_topology

    name = f"random_regular:{degree:g}"
    if mistake := _mistake(num_nodes, degree):
        raise UserError(f"graph {name!r} with n = {num_nodes}: {mistake}")
    degree = int(degree)
    sparse_degree = min(degree, num_nodes - 1 - degree)

    def draw(attempt_seed: int) -> Any:
        sparse = networkx.random_regular_graph(sparse_degree, num_nodes, seed=attempt_seed)
        return sparse if degree == sparse_degree else networkx.complement(sparse)

    return connected_topology(name, num_nodes, seed, draw, "a larger degree would do")


def _mistake(num_nodes: int, degree: float) -> str | None:
    if degree < 1 or degree != int(degree):
        return "the degree must be a whole number from 1, as random_regular:4"
    if num_nodes == 1:
        return "one node has no neighbours; n must be at least 2"
    if degree >= num_nodes:
        return f"the degree must be below n; n = {degree + 1:g} or random_regular:{num_nodes - 1}"
    if num_nodes * degree % 2:
        return f"n or the degree must be even; random_regular:{degree - 1:g} or {degree + 1:g}"
    if degree == 1 and num_nodes > 2:
        return "pairs are not connected; random_regular:2 or more"
    return None
