"""Drawing graphs until one is connected."""

from collections.abc import Callable
from typing import Any

from pcode.topology.base import Topology
from pcode.topology.weights import metropolis_weights
from pcode.utils.errors import UserError
from pcode.utils.seeding import derive_seed

MAX_ATTEMPTS = 1000


def connected_topology(
    name: str, num_nodes: int, seed: int, draw: Callable[[int], Any], hint: str
) -> Topology:
    """Return the first connected graph among draw(seed of attempt 0), draw(seed of 1), ...

    Args:
        name: the topology's.
        seed: the run's, from which all attempts' are derived.
        draw: a networkx graph of the nodes 0 to num_nodes - 1 from a seed.
        hint: what would do, for the UserError where none of MAX_ATTEMPTS graphs is connected.
    """
    import networkx  # noqa: PLC0415  # takes .2 s, which only graphs made with it are to cost

    for attempt in range(MAX_ATTEMPTS):
        graph = draw(derive_seed(seed, "topology", attempt))
        if networkx.is_connected(graph):
            return Topology(name, metropolis_weights(num_nodes, graph.edges()))
    raise UserError(
        f"graph {name!r} with n = {num_nodes}: none of {MAX_ATTEMPTS} drawn is connected; {hint}"
    )
