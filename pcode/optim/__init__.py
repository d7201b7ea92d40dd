"""The optimizers: how nodes step and mix. One file each, readable beside the paper.

A new one is a file with a subclass of DecentralizedOptimizer and a line in OPTIMIZERS: see
docs/writing-an-optimizer.md.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pcode.communication.base import Communicator
from pcode.compression.base import Compressor
from pcode.optim.ada_gossip import AdaGossip
from pcode.optim.all_reduce_sgd import AllReduceSGD
from pcode.optim.base import DecentralizedOptimizer, parameter_groups
from pcode.optim.beer import BEER
from pcode.optim.d2 import D2
from pcode.optim.d_psgd import DPSGD
from pcode.optim.dcd_psgd import DCDPSGD
from pcode.optim.decentlam import DecentLaM
from pcode.optim.deep_squeeze import DeepSqueeze
from pcode.optim.dgc import DGC
from pcode.optim.ecd_psgd import ECDPSGD
from pcode.optim.ef_sign_sgd import EFSignSGD
from pcode.optim.gradient_tracking import GradientTracking
from pcode.optim.lead import LEAD
from pcode.optim.local import AdamOptions, SGDOptions
from pcode.optim.motef import MoTEF
from pcode.optim.parallel_choco import ParallelChoco
from pcode.optim.power_gossip import PowerGossip
from pcode.optim.quasi_global import QuasiGlobalSGD
from pcode.optim.relay import RelaySGD
from pcode.optim.sgp import SGP
from pcode.topology.base import Graph
from pcode.utils.options import look_up, taken_by

__all__ = [
    "ALIASES",
    "BEER",
    "D2",
    "DCDPSGD",
    "DGC",
    "DPSGD",
    "ECDPSGD",
    "LEAD",
    "LOCAL_OPTIMIZERS",
    "OPTIMIZERS",
    "SGP",
    "AdaGossip",
    "AdamOptions",
    "AllReduceSGD",
    "DecentLaM",
    "DecentralizedOptimizer",
    "DeepSqueeze",
    "EFSignSGD",
    "GradientTracking",
    "MoTEF",
    "ParallelChoco",
    "PowerGossip",
    "QuasiGlobalSGD",
    "RelaySGD",
    "SGDOptions",
    "local_options",
    "make_optimizer",
    "optimizer_class",
    "parameter_groups",
]

OPTIMIZERS: dict[str, type[DecentralizedOptimizer]] = {
    "sgd": DPSGD,
    "parallel_choco": ParallelChoco,
    "ada_gossip": AdaGossip,
    "dcd_psgd": DCDPSGD,
    "ecd_psgd": ECDPSGD,
    "deep_squeeze": DeepSqueeze,
    "ef_sign_sgd": EFSignSGD,
    "dgc": DGC,
    "power_gossip": PowerGossip,
    "decentralized_qg_sgd": QuasiGlobalSGD,
    "d2": D2,
    "gradient_tracking": GradientTracking,
    "decentlam": DecentLaM,
    "sgp": SGP,
    "relay": RelaySGD,
    "beer": BEER,
    "motef": MoTEF,
    "lead": LEAD,
}
ALIASES = {
    "parallel_choco_v": "parallel_choco",
    "dcd": "dcd_psgd",
    "ecd": "ecd_psgd",
    "gt": "gradient_tracking",
    "momentum_tracking": "gradient_tracking",
}
# What declares the options of the local step.
LOCAL_OPTIMIZERS: dict[str, type] = {"sgd": SGDOptions, "adam": AdamOptions}


def optimizer_class(name: str, graph: Graph) -> type[DecentralizedOptimizer]:
    """Return the optimizer of that name or alias on that graph.

    Raises:
        UserError: the name is unknown.
    """
    return look_up("optimizer", ALIASES.get(name, name), OPTIMIZERS).on_graph(graph)


def local_options(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Select, of every flag of the run, the options of the local step, as an optimizer takes them.

    Raises:
        UserError: they do not fit together.
    """
    kind = LOCAL_OPTIMIZERS[flags["local_optimizer"]]
    options = kind(**taken_by(kind, flags))
    # SGD's are set for each param_group, Adam's are not.
    return {"adam": options} if isinstance(options, AdamOptions) else vars(options)


def make_optimizer(
    params: Iterable[Any],
    communicator: Communicator,
    topology: Graph,
    flags: Mapping[str, Any],
    compressor: Compressor,
) -> DecentralizedOptimizer:
    """Make a node's optimizer from every flag of the run; it gets those that it takes."""
    kind = optimizer_class(flags["optimizer"], topology)
    options = local_options(flags) | taken_by(kind, flags)
    if kind.compresses:
        options |= {"compressor": compressor, "seed": flags["manual_seed"]}
    return kind(params, communicator, topology, **options)
