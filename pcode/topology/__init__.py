"""Topologies: who mixes with whom, and with which weights.

A new topology is one file with a function of n and one line in TOPOLOGIES:
docs/writing-a-topology.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

from pcode.topology.base import Graph, Mixing, TimeVarying, Topology
from pcode.topology.chain import chain
from pcode.topology.complete import complete
from pcode.topology.data_center import data_center
from pcode.topology.erdos_renyi import erdos_renyi
from pcode.topology.expander import expander
from pcode.topology.exponential import exponential
from pcode.topology.graph_file import graph_file
from pcode.topology.hypercube import hypercube
from pcode.topology.margulis_expander import margulis_expander
from pcode.topology.one_peer_exponential import OnePeerExponential
from pcode.topology.random_matching import RandomMatching
from pcode.topology.random_regular import random_regular
from pcode.topology.ring import ring
from pcode.topology.ring_ext import ring_ext
from pcode.topology.social import social
from pcode.topology.star import star
from pcode.topology.survivors import surviving_graph
from pcode.topology.torus import torus
from pcode.topology.weights import local_degree_weights, metropolis_weights
from pcode.utils.errors import UserError
from pcode.utils.registry import look_up

__all__ = [
    "DRAWN",
    "PARAMETRIC",
    "TOPOLOGIES",
    "Graph",
    "Mixing",
    "TimeVarying",
    "Topology",
    "local_degree_weights",
    "make_graph",
    "make_topology",
    "metropolis_weights",
    "surviving_graph",
]

# Functions of n.
TOPOLOGIES: dict[str, Callable[[int], Graph]] = {
    "complete": complete,
    "ring": ring,
    "torus": torus,
    "expander": expander,
    "margulis_expander": margulis_expander,
    "social": social,
    "ring_ext": ring_ext,
    "data_center": data_center,
    "chain": chain,
    "star": star,
    "hypercube": hypercube,
    "exponential": exponential,
    "one_peer_exponential": OnePeerExponential,
}
# Drawn at random: functions of n and the run's seed.
DRAWN: dict[str, Callable[[int, int], Graph]] = {
    "random_regular": random_regular,
    "erdos_renyi": erdos_renyi,
    "random_matching": RandomMatching,
}
# Those of DRAWN that also take the number after a colon in the name, as `random_regular:4`.
PARAMETRIC: dict[str, Callable[[int, int, float], Graph]] = {
    "random_regular": random_regular,
    "erdos_renyi": erdos_renyi,
}


def make_graph(name_or_path: str, num_nodes: int, seed: int = 0) -> Graph:
    """The graph of that name, or of that file, for so many nodes.

    What is no name but exists, or has a path separator or a suffix, is the file of a graph.

    Args:
        name_or_path: a name may end with a parameter, as `random_regular:4`.
        seed: the run's (`--manual_seed`), for what is drawn at random.

    Raises:
        UserError: fewer than one node, an unknown name, a parameter or an n that the topology
            does not have, or a file that does not describe a valid graph of `num_nodes` nodes.
    """
    if num_nodes < 1:
        raise UserError(f"graph {name_or_path!r} with n = {num_nodes}: n must be at least 1")
    drawn = {name: _with_seed(draw, seed) for name, draw in DRAWN.items()}
    built = {**drawn, **TOPOLOGIES}
    name, colon, parameter = name_or_path.partition(":")
    if colon and name in built:
        return _with_parameter(name, parameter, num_nodes, seed)
    if name_or_path not in built:
        directory, file = os.path.split(name_or_path)
        if directory or os.path.splitext(file)[1] or os.path.exists(name_or_path):
            return graph_file(name_or_path, num_nodes)
    return look_up("graph_topology", name_or_path, built)(num_nodes)


def make_topology(name_or_path: str, num_nodes: int, seed: int = 0) -> Topology:
    """The graph of make_graph, where it is the same in every round.

    Raises:
        UserError: as make_graph does, or the graph changes from round to round.
    """
    graph = make_graph(name_or_path, num_nodes, seed)
    if not isinstance(graph, Topology):
        raise UserError(
            f"graph {name_or_path!r} with n = {num_nodes}: changes from round to round; one that "
            "is always the same is needed, as exponential"
        )
    return graph


def _with_seed(draw: Callable[[int, int], Graph], seed: int) -> Callable[[int], Graph]:
    return lambda num_nodes: draw(num_nodes, seed)


def _with_parameter(name: str, parameter: str, num_nodes: int, seed: int) -> Graph:
    if name not in PARAMETRIC:
        raise UserError(
            f"--graph_topology {name}:{parameter}: {name} has no parameter; these have one: "
            f"{', '.join(PARAMETRIC)}"
        )
    try:
        number = float(parameter)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"--graph_topology {name}:{parameter}: {parameter!r} is not a number")
    return PARAMETRIC[name](num_nodes, seed, number)
