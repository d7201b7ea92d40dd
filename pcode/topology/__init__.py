"""Topologies: who mixes with whom, and with which weights.

A new topology is one file with a function of n and one line in TOPOLOGIES.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from pcode.errors import UserError
from pcode.registry import look_up
from pcode.topology.base import Topology, metropolis_weights
from pcode.topology.complete import complete
from pcode.topology.expander import expander
from pcode.topology.graph_file import graph_file
from pcode.topology.ring import ring
from pcode.topology.torus import torus

__all__ = ["TOPOLOGIES", "Topology", "make_topology", "metropolis_weights"]

TOPOLOGIES: dict[str, Callable[[int], Topology]] = {
    "complete": complete,
    "ring": ring,
    "torus": torus,
    "expander": expander,
}
PLANNED = ("margulis_expander", "social", "ring_ext", "data_center")


def make_topology(name_or_path: str, num_nodes: int) -> Topology:
    """The topology of that name, or of that file, for so many nodes.

    What is no name but exists, or has a path separator or a suffix, is the file of a graph.

    Raises:
        UserError: fewer than one node, an unknown name, an n that the topology does not have, or
            a file that does not describe a valid graph of `num_nodes` nodes.
    """
    if num_nodes < 1:
        raise UserError(f"graph {name_or_path!r} with n = {num_nodes}: n must be at least 1")
    if name_or_path not in TOPOLOGIES and name_or_path not in PLANNED:
        directory, name = os.path.split(name_or_path)
        if directory or os.path.splitext(name)[1] or os.path.exists(name_or_path):
            return graph_file(name_or_path, num_nodes)
    return look_up("graph_topology", name_or_path, TOPOLOGIES, PLANNED)(num_nodes)
