"""Topologies: who mixes with whom, and with which weights.

A new topology is one file with a function of n and one line in TOPOLOGIES:
docs/writing-a-topology.md.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from pcode.topology.base import (
    Graph,
    Mixing,
    TimeVarying,
    Topology,
    local_degree_weights,
    metropolis_weights,
)
from pcode.topology.base_graph import BaseGraph
from pcode.topology.binary_tree import binary_tree, double_binary_trees
from pcode.topology.chain import chain
from pcode.topology.complete import complete
from pcode.topology.directed import Directed, directed_exponential
from pcode.topology.equi_topo import EquiDyn, equistatic
from pcode.topology.erdos_renyi import erdos_renyi
from pcode.topology.expander import expander
from pcode.topology.exponential import exponential
from pcode.topology.graph_file import directed_file, graph_file
from pcode.topology.hypercube import hypercube
from pcode.topology.lossy import Lossy, without_losses
from pcode.topology.margulis_expander import margulis_expander
from pcode.topology.one_peer_exponential import OnePeerExponential
from pcode.topology.random_matching import RandomMatching
from pcode.topology.random_regular import random_regular
from pcode.topology.ring import data_center, ring
from pcode.topology.ring_ext import ring_ext
from pcode.topology.social import social
from pcode.topology.spanning_tree import spanning_tree
from pcode.topology.star import star
from pcode.topology.torus import torus
from pcode.utils.errors import UserError
from pcode.utils.options import look_up, taken_by

__all__ = [
    "PARAMETRIC",
    "TOPOLOGIES",
    "Directed",
    "Graph",
    "Lossy",
    "Mixing",
    "TimeVarying",
    "Topology",
    "local_degree_weights",
    "make_graph",
    "make_topology",
    "metropolis_weights",
    "surviving_graph",
    "without_losses",
    "written",
]

# Functions of n, and of `seed`, the run's, where they draw; what else they take they declare as
# options. Each raises a UserError that says what would do for an n that it does not have.
TOPOLOGIES: dict[str, Callable[..., Graph]] = {
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
    "binary_tree": binary_tree,
    "double_binary_trees": double_binary_trees,
    "hypercube": hypercube,
    "exponential": exponential,
    "one_peer_exponential": OnePeerExponential,
    "directed_exponential": directed_exponential,
    "base": BaseGraph,
    "random_regular": random_regular,
    "erdos_renyi": erdos_renyi,
    "random_matching": RandomMatching,
    "equistatic": equistatic,
    "equidyn": EquiDyn,
    "spanning_tree": spanning_tree,
    "directed": directed_file,
}
# What is given what stands after a colon in the name, as in `random_regular:4`: a number, or, where
# it is one of NEEDED, which cannot be left out, the name of a file or a graph that does not change.
PARAMETRIC = {
    "base": "degree",
    "random_regular": "degree",
    "erdos_renyi": "probability",
    "equistatic": "matrices",
    "spanning_tree": "graph",
    "directed": "file",
}
NEEDED = ("graph", "file")


def written(name: str) -> str:
    """Return a name as a flag's value, with what must follow it."""
    parameter = PARAMETRIC.get(name, "")
    return f"{name}:{parameter.upper()}" if parameter in NEEDED else name


def make_graph(
    name_or_path: str, num_nodes: int, seed: int = 0, flags: Mapping[str, Any] | None = None
) -> Graph:
    """Return the graph of that name, or of that file, for so many nodes.

    What is no name but exists, or has a path separator or a suffix, is the file of a graph.

    Args:
        name_or_path: a name may end with a parameter, as `random_regular:4`.
        seed: the run's (`--manual_seed`), for what is drawn at random.
        flags: every flag of the run; the graph gets those that it takes, and loses messages where
            `drop_messages` says so.

    Raises:
        UserError: there is no such graph of so many nodes; the message says why.
    """
    graph = _make_graph(name_or_path, num_nodes, seed, flags or {})
    probability = (flags or {}).get("drop_messages", 0.0)
    return Lossy(graph, probability, seed) if probability else graph


def _make_graph(name_or_path: str, num_nodes: int, seed: int, flags: Mapping[str, Any]) -> Graph:
    if num_nodes < 1:
        raise UserError(f"graph {name_or_path!r} with n = {num_nodes}: n must be at least 1")
    name, colon, parameter = name_or_path.partition(":")
    if name in TOPOLOGIES:
        options = taken_by(TOPOLOGIES[name], {**flags, "seed": seed})
        if colon or PARAMETRIC.get(name) in NEEDED:
            make = partial(_make_graph, num_nodes=num_nodes, seed=seed, flags=flags)
            options |= _parameter(name, parameter, make)
        return TOPOLOGIES[name](num_nodes, **options)
    directory, file = os.path.split(name_or_path)
    if directory or os.path.splitext(file)[1] or os.path.exists(name_or_path):
        return graph_file(name_or_path, num_nodes)
    return look_up("graph_topology", name_or_path, TOPOLOGIES)(num_nodes)


def make_topology(name_or_path: str, num_nodes: int, seed: int = 0) -> Topology:
    """Return the graph of make_graph, or raise a UserError where it is not always the same."""
    return _fixed(make_graph(name_or_path, num_nodes, seed))


def _fixed(graph: Graph) -> Topology:
    if not isinstance(graph, Topology):
        reason = "is directed" if isinstance(graph, Directed) else "changes from round to round"
        raise UserError(
            f"graph {graph.name!r} with n = {graph.num_nodes}: {reason}; one with the same edges "
            "in every round, both ways, is needed, as exponential"
        )
    return graph


def surviving_graph(graph: Graph, survivors: Sequence[int], remade: Graph | None) -> Graph:
    """Return the graph on which survivors go on, given by their ranks in the one before, ascending.

    Their new ranks are their places among them. `remade`, the same kind of graph with so many
    nodes, is taken where there is one (a ring stays a ring); else the links that are left, by
    Metropolis' rule; else, where these fall apart, a ring.
    """
    if remade is not None:
        return remade
    if isinstance(graph, Lossy):
        return graph.on(surviving_graph(graph.graph, survivors, None))
    num_nodes = len(survivors)
    if isinstance(graph, Topology):
        left = np.argwhere(graph.matrix[np.ix_(survivors, survivors)] > 0)
        weights = metropolis_weights(num_nodes, ((int(i), int(j)) for i, j in left))
        with suppress(UserError):  # they are not connected
            return Topology(f"{graph.name} without {graph.num_nodes - num_nodes}", weights)
    return ring(num_nodes)


def _parameter(name: str, text: str, make: Callable[[str], Graph]) -> dict[str, Any]:
    """Parse what stands after the colon; `make` gives the graph of a name."""
    parameter = PARAMETRIC.get(name)
    if parameter is None:
        raise UserError(
            f"--graph_topology {name}:{text}: {name} has no parameter; these have one: "
            f"{', '.join(PARAMETRIC)}"
        )
    if parameter in NEEDED:
        if not text:
            raise UserError(f"--graph_topology {name}: what {parameter}? as {written(name)}")
        return {parameter: text if parameter == "file" else _fixed(make(text))}
    with suppress(ValueError):
        if math.isfinite(number := float(text)):
            return {parameter: number}
    raise UserError(f"--graph_topology {name}:{text}: {text!r} is not a number")
