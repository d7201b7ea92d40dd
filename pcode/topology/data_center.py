"""An older name of the ring."""

from __future__ import annotations

from pcode.topology.base import Topology
from pcode.topology.ring import ring


def data_center(num_nodes: int) -> Topology:
    """The ring, under the name that it had between the machines of a data center."""
    return Topology("data_center", ring(num_nodes).matrix)
