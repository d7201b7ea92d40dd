"""Graphs that are drawn once, from the run's seed, until one is connected."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pcode.topology.base import Topology, metropolis_weights
from pcode.utils.errors import UserError
from pcode.utils.seeding import derive_seed

# Graphs drawn until one is connected.
MAX_ATTEMPTS = 1000
# Far below what connects any number of nodes, and above where ln(1 - p) rounds to 0.
SMALLEST_PROBABILITY = 1e-12


def erdos_renyi(num_nodes: int, seed: int, probability: float | None = None) -> Topology:
    """The connected graph G(n, p) with Metropolis weights.

    Args:
        seed: the run's; with n and the probability it decides the graph.
        probability: of each edge, at most 1; min(1, 2 ln n / n) by default. Connected graphs
            become likely from ln n / n on.

    Source: Erdos and Renyi, "On the evolution of random graphs", 1960; Gilbert, 1959;
    networkx.fast_gnp_random_graph. Difference: drawn again until connected.
    """
    threshold = math.log(num_nodes) / num_nodes
    name = "erdos_renyi" if probability is None else f"erdos_renyi:{probability:g}"
    p = min(1.0, 2 * threshold) if probability is None else probability
    if probability is not None and not SMALLEST_PROBABILITY <= p <= 1:
        raise UserError(
            f"graph {name!r} with n = {num_nodes}: the probability must be from "
            f"{SMALLEST_PROBABILITY:g} to 1"
        )
    return connected_topology(
        name,
        num_nodes,
        seed,
        lambda networkx, seed: networkx.fast_gnp_random_graph(num_nodes, p, seed=seed),
        f"a probability from ln n / n = {threshold:.2g} on would do",
    )


def random_regular(num_nodes: int, seed: int, degree: float = 4) -> Topology:
    """A connected graph of so many neighbours each: 1/(degree + 1) for them and the node itself.

    Args:
        seed: the run's; with n and the degree it decides the graph.
        degree: a whole number below n; n * degree is even. From 3 on a random graph is an
            expander with high probability.

    Source: networkx.random_regular_graph (Kim and Vu, 2003); a dense graph is the complement of
    a drawn sparse one, since drawing it takes ever longer as the degree nears n.
    """
    name = f"random_regular:{degree:g}"
    if mistake := _mistake(num_nodes, degree):
        raise UserError(f"graph {name!r} with n = {num_nodes}: {mistake}")
    degree = int(degree)
    sparse_degree = min(degree, num_nodes - 1 - degree)

    def draw(networkx: ModuleType, attempt_seed: int) -> Any:
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


def connected_topology(
    name: str, num_nodes: int, seed: int, draw: Callable[[ModuleType, int], Any], hint: str
) -> Topology:
    """Return the first connected graph that `draw` makes with networkx from a seed.

    The graphs have the nodes 0 to num_nodes - 1. Where none of MAX_ATTEMPTS is connected a
    UserError says what would do, `hint`.
    """
    import networkx  # noqa: PLC0415  # takes .2 s, which only graphs made with it are to cost

    for attempt in range(MAX_ATTEMPTS):
        graph = draw(networkx, derive_seed(seed, "topology", attempt))
        if networkx.is_connected(graph):
            return Topology(name, metropolis_weights(num_nodes, graph.edges()))
    raise UserError(
        f"graph {name!r} with n = {num_nodes}: none of {MAX_ATTEMPTS} drawn is connected; {hint}"
    )
