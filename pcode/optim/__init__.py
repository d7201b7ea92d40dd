"""The laws: how nodes step and mix. One file each, readable beside the paper.

A new law is one file with a subclass of Law and one line in LAWS.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pcode.communication.base import Communicator
from pcode.optim.all_reduce_sgd import AllReduceSGD
from pcode.optim.base import Law, parameter_groups
from pcode.optim.d_psgd import DPSGD
from pcode.optim.parallel_choco import ParallelChoco
from pcode.registry import look_up
from pcode.topology.base import Topology

__all__ = [
    "DPSGD",
    "LAWS",
    "AllReduceSGD",
    "Law",
    "ParallelChoco",
    "law_class",
    "make_law",
    "parameter_groups",
]

# name -> the law on a complete graph, the law on any other
LAWS: dict[str, tuple[type[Law], type[Law]]] = {
    "sgd": (AllReduceSGD, DPSGD),
    "parallel_choco": (ParallelChoco, ParallelChoco),
}
ALIASES = {"parallel_choco_v": "parallel_choco", "dcd": "dcd_psgd", "ecd": "ecd_psgd"}
PLANNED = ("dcd_psgd", "ecd_psgd", "deep_squeeze", "ef_sign_sgd", "dgc")


def law_class(name: str, topology: Topology) -> type[Law]:
    """The law of that name or alias on that graph.

    Raises:
        UserError: the name is unknown or not built yet.
    """
    centralized, decentralized = look_up("optimizer", ALIASES.get(name, name), LAWS, PLANNED)
    return centralized if topology.name == "complete" else decentralized


def make_law(
    name: str,
    params: Iterable[Any],
    communicator: Communicator,
    topology: Topology,
    *,
    local: Mapping[str, Any],
    flags: Mapping[str, Any],
    gossip: Mapping[str, Any],
) -> Law:
    """A node's law.

    Args:
        local: options of the local step: lr, momentum, nesterov, weight_decay.
        flags: every flag of the run; the law gets those that it takes.
        gossip: what laws that compress get: compressor, seed.
    """
    kind = law_class(name, topology)
    taken = {flag: flags[flag] for flag in kind.flags}
    given = gossip if kind.compresses else {}
    return kind(params, communicator, topology, **local, **taken, **given)
