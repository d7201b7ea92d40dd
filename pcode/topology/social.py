"""A social network: who attended which party."""

from pcode.topology.base import Topology, local_degree_weights
from pcode.utils.errors import UserError


def social(num_nodes: int) -> Topology:
    """18 women of a southern town in the 1930s and the 14 events that they attended, n = 32.

    Ranks 0 to 17 are the women, Evelyn Jefferson to Flora Price, 18 to 31 the events E1 to E14,
    both in the order of networkx.davis_southern_women_graph. A woman and an event that she
    attended are neighbours. The weights are the local-degree weights, so that some nodes have no
    self weight.

    Source: Davis, Gardner, Gardner, "Deep South", 1941.
    """
    import networkx  # noqa: PLC0415  # see base.connected_topology

    graph = networkx.davis_southern_women_graph()
    if num_nodes != len(graph):
        raise UserError(f"graph 'social' with n = {num_nodes}: n must be {len(graph)}")
    ranks = {node: rank for rank, node in enumerate(graph)}
    edges = ((ranks[woman], ranks[event]) for woman, event in graph.edges())
    return Topology("social", local_degree_weights(num_nodes, edges))
