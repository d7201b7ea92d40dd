"""The methods among which advise.py chooses, and a run's plan with each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pcode.config import Config, make_config
from pcode.training.plan import Plan
from pcode.training.planning import components, make_plan
from pcode.utils.errors import UserError
from pcode.utils.options import LARGEST_INTEGER

_STILL = {
    # So small a rate changes no model by much: echoes and one batch must not let one diverge.
    **{"lr_schedule_scheme": "constant", "lr": 1e-6, "lr_scaleup": False},
    **{"turn_on_local_step_from": 0, "resume": None, "evaluate": False},
}
# Where a method does not say otherwise.
_PLAIN = {"local_step": 1, "mix_promptly": False}
# Nodes that do not exchange within what is measured.
_ALONE = {"optimizer": "sgd", "local_step": LARGEST_INTEGER, "consensus_stepsize": None}


@dataclass(frozen=True)
class Method:
    """A method, as run.py's flags.

    Attributes:
        steps: to 95 % test top-1 of VGG-11 on digits, 4 nodes of batch 16; None: not known.
    """

    title: str
    flags: Mapping[str, Any]
    steps: int | None = None

    @property
    def command(self) -> str:
        return " ".join(f"--{name} {value}" for name, value in self.flags.items())


def _choco(title: str, steps: int | None = None, **flags: Any) -> Method:
    return Method(f"CHOCO, {title}", {"optimizer": "parallel_choco", **flags}, steps)


def _power(title: str, steps: int | None = None, **flags: Any) -> Method:
    return Method(f"PowerGossip, {title}", {"optimizer": "power_gossip", **flags}, steps)


# Of one run each, evaluated every so many steps.
STEPS_WITHIN = 6
# The steps are those of docs/slow-networks.md, "Time to an accuracy"; all-reduce has
# DistributedDataParallel's.
METHODS = (
    Method("all-reduce", {"optimizer": "sgd", "graph_topology": "complete"}, 24),
    Method("D-PSGD", {"optimizer": "sgd"}, 24),
    _choco("qsgd 8", 36, comm_op="quantize_qsgd", quantize_level=8),
    _choco("sign", 24, comm_op="sign"),
    _choco("qsgd 4", comm_op="quantize_qsgd", quantize_level=4),
    _power("rank 4", 36, gossip_rank=4),
    _power("rank 2", gossip_rank=2),
    _power("rank 1", gossip_rank=1),
    _power("rank 4, promptly", 24, gossip_rank=4, mix_promptly=True),
    _power("rank 1, 4 local steps", gossip_rank=1, local_step=4),
    _choco("sign, 2 local steps", 42, comm_op="sign", local_step=2),
    _choco("sign, 4 local steps", 54, comm_op="sign", local_step=4),
    _choco("sign, 8 local steps", comm_op="sign", local_step=8),
    _choco("random 1 %", 84, comm_op="compress_random_k", compress_ratio=0.99),
    _choco("top 1 %", 108, comm_op="compress_top_k", compress_ratio=0.99),
)


def plan_alone(config: Config) -> Plan:
    """Plan the run with nodes that do not communicate.

    Raises:
        UserError: no run with these flags is possible, whatever the method.
    """
    flags = config.flat() | _STILL
    return make_plan(make_config(**{**flags, **_ALONE}))


def _plan_of(method: Method, alone: Plan, config: Config) -> Plan:
    given = config.flat() | _STILL
    config = make_config(**{**given, **_PLAIN, **method.flags})
    given_graph = None if "graph_topology" in method.flags else alone.topology
    topology, compressor, kind = components(config, given_graph)
    gamma = kind.default_consensus_stepsize(compressor)
    config = make_config(**{**config.flat(), "consensus_stepsize": gamma})
    return dataclasses.replace(alone, config=config, topology=topology, compressor=compressor)


def plans_of(alone: Plan, config: Config) -> tuple[dict[str, Plan], list[str]]:
    """Return plans by the titles of methods, like that of nodes alone, and why others do not go.

    D-PSGD on a complete graph is all-reduce, and left out.
    """
    plans: dict[str, Plan] = {}
    reasons = []
    for method in METHODS:
        try:
            plan = _plan_of(method, alone, config)
        except UserError as error:
            reasons.append(f"{method.title}: {error}")
            continue
        if plan.topology is not alone.topology or not plan.optimizer.centralized:
            plans[method.title] = plan
    return plans, reasons
