"""A random graph in which every node has the same number of neighbours."""

from __future__ import annotations

from typing import Any

from pcode.topology.base import Topology
from pcode.topology.connected import connected_edges
from pcode.topology.library import networkx
from pcode.topology.weights import metropolis_weights
from pcode.utils.errors import UserError


def random_regular(num_nodes: int, seed: int, degree: float = 4) -> Topology:
    """A connected graph of so many neighbours each: 1/(degree + 1) for them and the node itself.

    Args:
        seed: the run's; with n and the degree it decides the graph.
        degree: a whole number below n; n * degree is even. From 3 on a random graph is an
            expander with high probability.

    Source: networkx.random_regular_graph (Kim and Vu, 2003); a dense graph is the complement of
    a drawn sparse one, since drawing it takes ever longer as the degree nears n.

    Raises:
        UserError: there is no connected graph of that degree and n; the message says what would
            do.
    """
    name = f"random_regular:{degree:g}"

    def refuse(reason: str) -> UserError:
        return UserError(f"graph {name!r} with n = {num_nodes}: {reason}")

    if degree < 1 or degree != int(degree):
        raise refuse("the degree must be a whole number from 1, as random_regular:4")
    if num_nodes == 1:
        raise refuse("one node has no neighbours; n must be at least 2")
    if degree >= num_nodes:
        raise refuse(
            f"the degree must be below n; n = {degree + 1:g} or random_regular:{num_nodes - 1}"
        )
    degree = int(degree)
    if num_nodes * degree % 2:
        raise refuse(f"n or the degree must be even; random_regular:{degree - 1} or {degree + 1}")
    if degree == 1 and num_nodes > 2:
        raise refuse("pairs are not connected; random_regular:2 or more")

    def draw(attempt_seed: int) -> Any:
        sparse = networkx().random_regular_graph(
            min(degree, num_nodes - 1 - degree), num_nodes, seed=attempt_seed
        )
        return sparse if degree <= num_nodes - 1 - degree else networkx().complement(sparse)

    edges = connected_edges(name, num_nodes, seed, draw, "a larger degree would do")
    return Topology(name, metropolis_weights(num_nodes, edges))
