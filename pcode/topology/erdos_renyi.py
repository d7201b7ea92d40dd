"""A random graph in which any two nodes are neighbours with the same probability."""

import math

from pcode.topology.base import Topology, connected_topology
from pcode.utils.errors import UserError

# Far below what connects any number of nodes, and above where ln(1 - p) rounds to 0.
SMALLEST_PROBABILITY = 1e-12


def erdos_renyi(num_nodes: int, seed: int, probability: float | None = None) -> Topology:
    """Return the connected graph G(n, p) with Metropolis weights.

    Args:
        seed: the run's; with n and the probability it decides the graph.
        probability: of each edge, at most 1; min(1, 2 ln n / n) by default. Connected graphs
            become likely from ln n / n on.

    Source: Erdos and Renyi, "On the evolution of random graphs", 1960; Gilbert, 1959;
    networkx.fast_gnp_random_graph. Difference: drawn again until connected.
    """
    import networkx  # noqa: PLC0415  # see base.connected_topology

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
        lambda attempt_seed: networkx.fast_gnp_random_graph(num_nodes, p, seed=attempt_seed),
        f"a probability from ln n / n = {threshold:.2g} on would do",
    )
