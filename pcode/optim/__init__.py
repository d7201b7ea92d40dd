"""The optimizers: how nodes step and mix. One file each, readable beside the paper.

A new optimizer is one file with a subclass of DecentralizedOptimizer and one line in OPTIMIZERS:
    docs/writing-an-optimizer.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pcode.communication.base import Communicator
from pcode.optim.all_reduce_sgd import AllReduceSGD
from pcode.optim.base import DecentralizedOptimizer, parameter_groups
from pcode.optim.d_psgd import DPSGD
from pcode.optim.dcd_psgd import DCDPSGD
from pcode.optim.deep_squeeze import DeepSqueeze
from pcode.optim.dgc import DGC
from pcode.optim.ecd_psgd import ECDPSGD
from pcode.optim.ef_sign_sgd import EFSignSGD
from pcode.optim.local import MEMORY_TREATMENTS, AdamOptions
from pcode.optim.parallel_choco import ParallelChoco
from pcode.registry import look_up, taken_by
from pcode.topology.base import Graph

__all__ = [
    "DCDPSGD",
    "DGC",
    "DPSGD",
    "ECDPSGD",
    "MEMORY_TREATMENTS",
    "OPTIMIZERS",
    "AdamOptions",
    "AllReduceSGD",
    "DecentralizedOptimizer",
    "DeepSqueeze",
    "EFSignSGD",
    "ParallelChoco",
    "make_optimizer",
    "optimizer_class",
    "parameter_groups",
]

# name -> the optimizer on a complete graph, the optimizer on any other
OPTIMIZERS: dict[str, tuple[type[DecentralizedOptimizer], type[DecentralizedOptimizer]]] = {
    "sgd": (AllReduceSGD, DPSGD),
    "parallel_choco": (ParallelChoco, ParallelChoco),
    "dcd_psgd": (DCDPSGD, DCDPSGD),
    "ecd_psgd": (ECDPSGD, ECDPSGD),
    "deep_squeeze": (DeepSqueeze, DeepSqueeze),
    "ef_sign_sgd": (EFSignSGD, EFSignSGD),
    "dgc": (DGC, DGC),
}
ALIASES = {"parallel_choco_v": "parallel_choco", "dcd": "dcd_psgd", "ecd": "ecd_psgd"}


def optimizer_class(name: str, topology: Graph) -> type[DecentralizedOptimizer]:
    """The optimizer of that name or alias on that graph.

    Raises:
        UserError: the name is unknown.
    """
    centralized, decentralized = look_up("optimizer", ALIASES.get(name, name), OPTIMIZERS)
    return centralized if topology.name == "complete" else decentralized


def make_optimizer(
    name: str,
    params: Iterable[Any],
    communicator: Communicator,
    topology: Graph,
    *,
    local: Mapping[str, Any],
    flags: Mapping[str, Any],
    gossip: Mapping[str, Any],
) -> DecentralizedOptimizer:
    """A node's optimizer.

    Args:
        local: options of the local step, as DecentralizedOptimizer takes them.
        flags: every flag of the run; the optimizer gets those that it takes.
        gossip: what optimizers that compress get: compressor, seed.
    """
    kind = optimizer_class(name, topology)
    given = gossip if kind.compresses else {}
    return kind(params, communicator, topology, **local, **taken_by(kind, flags), **given)
