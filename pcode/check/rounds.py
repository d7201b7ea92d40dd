"""Which pairs of ranks the run's graph joins, and when each can be measured undisturbed."""

from __future__ import annotations

from collections.abc import Sequence

from pcode.topology import Graph, TimeVarying, Topology

Edge = tuple[int, int]

# Of a graph that never repeats itself.
MOST_ROUNDS = 32


def edges_of(graph: Graph, num_parts: int = 1) -> list[Edge]:
    """Every pair that talks, as (i, j) with i < j, sorted; of a graph without end, the first's.

    Args:
        num_parts: ranks of a node, of which the first talks to other nodes.
    """
    return [(num_parts * i, num_parts * j) for i, j in _edges(graph)]


def _edges(graph: Graph) -> list[Edge]:
    """As `edges_of`, of nodes."""
    if isinstance(graph, Topology):
        return list(graph.edges)
    assert isinstance(graph, TimeVarying), "there is no other graph"
    found = {
        (min(rank, other), max(rank, other))
        for step in range(graph.period or MOST_ROUNDS)
        for rank in range(graph.num_nodes)
        for other in graph.at(step).receivers(rank)
    }
    return sorted(found)


def apart(edges: Sequence[Edge], hosts: Sequence[str]) -> list[list[Edge]]:
    """Rounds of edges, no two of which share a host: neither a link nor a core.

    Args:
        hosts: of each rank.
    """
    rounds: list[tuple[list[Edge], set[str]]] = []
    for edge in edges:
        ends = {hosts[rank] for rank in edge}
        for members, busy in rounds:
            if not busy & ends:
                members.append(edge)
                busy.update(ends)
                break
        else:
            rounds.append(([edge], ends))
    return [members for members, _ in rounds]
