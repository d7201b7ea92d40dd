"""Drawing graphs until one is connected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pcode.topology.library import networkx
from pcode.utils.errors import UserError
from pcode.utils.seeding import derive_seed

MAX_ATTEMPTS = 1000


def connected_edges(
    name: str, num_nodes: int, seed: int, draw: Callable[[int], Any], hint: str
) -> list[tuple[int, int]]:
    """The edges of the first connected graph among draw(seed of attempt 0), draw(1), ...

    Args:
        name: the topology's.
        seed: the run's, from which all attempts' are derived.
        draw: a graph of the nodes 0 to num_nodes - 1 from a seed.
        hint: what would do where no graph is connected.

    Raises:
        UserError: none of MAX_ATTEMPTS graphs is connected.
    """
    for attempt in range(MAX_ATTEMPTS):
        graph = draw(derive_seed(seed, "topology", attempt))
        if networkx().is_connected(graph):
            return list(graph.edges())
    raise UserError(
        f"graph {name!r} with n = {num_nodes}: none of {MAX_ATTEMPTS} drawn is connected; {hint}"
    )
