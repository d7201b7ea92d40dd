"""A training step by each method that the slow-network benchmark compares.

Every method has a model of its own, equal at the start, and the same SGD: momentum .9, Nesterov's,
weight decay 1e-4. With DDP it takes the nodes' mean gradient, otherwise each node's own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from pcode.communication import Communicator
from pcode.compression import make_compressor
from pcode.models import make_model
from pcode.optim import (
    BEER,
    D2,
    DPSGD,
    LEAD,
    SGP,
    DecentLaM,
    DecentralizedOptimizer,
    GradientTracking,
    MoTEF,
    ParallelChoco,
    PowerGossip,
    QuasiGlobalSGD,
    RelaySGD,
)
from pcode.topology import make_topology
from pcode.utils.timing import StepTimer

IMAGE = (3, 32, 32)
NUM_CLASSES = 10
# The first steps compile kernels, make connections and fill the pipeline.
WARM_UP = 2
# What all are compared with: a key of PEERS.
BASE = "none"
LOCAL: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
# Changes the way of a wrapped model's gradients between the ranks of a group.
Hook = Callable[[DistributedDataParallel, Any], None]


def new_model(arch: str) -> nn.Module:
    """The same on every node."""
    return make_model(arch, IMAGE, NUM_CLASSES, seed=1, flags={})


class Method:
    """A model and the steps that train it.

    Attributes:
        model: this node's.
        timer: where the time of the steps goes.
        steps_per_exchange: local steps from one exchange to the next.
        gradient_ms: wait so long instead of computing gradients; None: compute them.
    """

    model: nn.Module
    timer: StepTimer
    steps_per_exchange: int = 1
    gradient_ms: float | None = None
    _noise: Sequence[torch.Tensor] = ()

    @property
    def warm_up(self) -> int:
        """Steps, with an exchange at the end, before those that are measured."""
        return max(WARM_UP, self.steps_per_exchange)

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        """One training step of this node."""
        raise NotImplementedError

    def finish(self) -> None:
        """Complete what is under way between nodes."""

    def _backward(self, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Gradients; those of the step before are gone."""
        if self.gradient_ms is not None:
            with self.timer("backward"):
                self._wait(model, time.perf_counter() + self.gradient_ms / 1e3)
            return
        with self.timer("forward"):
            loss = functional.cross_entropy(model(inputs), targets)
        with self.timer("backward"):
            torch.autograd.backward(loss)

    def _wait(self, model: nn.Module, end: float) -> None:
        """Gradients that mean nothing, at that time of the performance counter."""
        if not self._noise:
            self._noise = [torch.randn_like(parameter) for parameter in model.parameters()]
        for parameter, noise in zip(model.parameters(), self._noise, strict=True):
            parameter.grad = noise.clone()
        time.sleep(max(0.0, end - time.perf_counter()))


class ByOptimizer(Method):
    """An optimizer of this project.

    Args:
        make_optimizer: called with the parameters and the options of the local step.
    """

    def __init__(
        self, arch: str, lr: float, make_optimizer: Callable[..., DecentralizedOptimizer]
    ) -> None:
        self.model = new_model(arch)
        self.optimizer = make_optimizer(self.model.parameters(), **LOCAL, lr=lr)
        self.timer = self.optimizer.timer
        self.steps_per_exchange = self.optimizer.steps_per_exchange

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        self._backward(self.model, inputs, targets)
        self.optimizer.step()

    def finish(self) -> None:
        self.optimizer.finish()


class ByTorch(Method):
    """PyTorch's own loop, alone: no communication."""

    def __init__(self, arch: str, lr: float) -> None:
        self.timer = StepTimer()
        self.model = self._trained = new_model(arch)
        parameters = self.model.parameters()
        self._optimizer = torch.optim.SGD(parameters, **LOCAL, lr=lr, fused=True)

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        self._optimizer.zero_grad()
        self._backward(self._trained, inputs, targets)
        with self.timer("local_update"):
            self._optimizer.step()


class ByDDP(ByTorch):
    """The same with DistributedDataParallel over gloo, whose all-reduce counts as backward.

    Args:
        hook: changes the gradients' way.
        one_bucket: all gradients in one message instead of buckets of 25 MiB; PowerSGD needs it
            over gloo, which does not keep several of its collectives apart.
    """

    def __init__(
        self, arch: str, lr: float, hook: Hook | None = None, one_bucket: bool = False
    ) -> None:
        super().__init__(arch, lr)
        group = dist.new_group(backend="gloo")
        wrapped = DistributedDataParallel(
            self.model,
            process_group=group,
            bucket_cap_mb=1000 if one_bucket else 25,
            broadcast_buffers=False,  # running statistics stay each node's own, as elsewhere
            gradient_as_bucket_view=True,
        )
        if hook is not None:
            hook(wrapped, group)
        self._trained = wrapped


def bf16(model: DistributedDataParallel, group: Any) -> None:
    """All-reduce gradients as bfloat16."""
    model.register_comm_hook(group, default_hooks.bf16_compress_hook)


def power_sgd(rank: int) -> Hook:
    """All-reduce factors of low rank (Vogels et al., NeurIPS 2019), from the third step on."""

    def hook(model: DistributedDataParallel, group: Any) -> None:
        # Two steps, the fewest it takes, are all-reduced whole.
        state = PowerSGDState(group, matrix_approximation_rank=rank, start_powerSGD_iter=2)
        model.register_comm_hook(state, powerSGD_hook)

    return hook


@dataclass(frozen=True)
class Peer:
    """A method by name.

    Attributes:
        title: for tables; that of `pcode.tools.advise`, where it knows the method.
        make: called with architecture, learning rate and this node's communicator.
        is_ddp: whether it communicates within backward, so that it needs one.
    """

    title: str
    make: Callable[[str, float, Communicator], Method]
    is_ddp: bool = False


def time_steps(
    method: Method, batch: tuple[torch.Tensor, torch.Tensor], num_steps: int, node: Communicator
) -> list[dict[str, float]]:
    """Mean seconds of a step and of its parts, over steps in a row, of each node.

    The steps before, `warm_up` of them, and the end of what the last one has under way are not
    counted: as in the middle of training.
    """
    node.barrier()
    for _ in range(method.warm_up):
        method.step(*batch)
    method.timer.reset()
    begin = time.perf_counter()
    for _ in range(num_steps):
        method.step(*batch)
    totals = {"total": time.perf_counter() - begin, **method.timer.seconds}
    method.finish()
    own = torch.tensor(list(totals.values()), dtype=torch.float64) / num_steps
    return [dict(zip(totals, row.tolist(), strict=True)) for row in node.all_gather(own)]


def mean_of(rows: list[dict[str, float]]) -> dict[str, float]:
    """The nodes' means of what `time_steps` returns."""
    return {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}


def mean(node: Communicator, values: list[float]) -> list[float]:
    """The nodes' means."""
    vector = torch.tensor(values, dtype=torch.float64)
    node.all_reduce_mean(vector)
    found: list[float] = vector.tolist()
    return found


def random_batch(batch_size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and classes that mean nothing."""
    draw = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch_size, *IMAGE, generator=draw),
        torch.randint(NUM_CLASSES, (batch_size,), generator=draw),
    )


def _optimizer(
    title: str, optimizer: type[DecentralizedOptimizer], graph: str = "ring", **options: Any
) -> Peer:
    def make(arch: str, lr: float, communicator: Communicator) -> Method:
        made = make_topology(graph, communicator.size)
        return ByOptimizer(
            arch,
            lr,
            lambda parameters, **local: optimizer(
                parameters, communicator, made, **options, **local
            ),
        )

    return Peer(title, make)


def _compressed(
    title: str,
    optimizer: type[DecentralizedOptimizer],
    comm_op: str,
    flags: Mapping[str, Any] | None = None,
    **options: Any,
) -> Peer:
    compressor = make_compressor(comm_op, **(flags or {}))
    gamma = optimizer.default_consensus_stepsize(compressor)
    return _optimizer(title, optimizer, compressor=compressor, consensus_stepsize=gamma, **options)


def _choco(
    title: str, comm_op: str, overlap: bool = True, local_step: int = 1, **flags: Any
) -> Peer:
    options = {"overlap": overlap, "local_step": local_step}
    return _compressed(f"CHOCO, {title}", ParallelChoco, comm_op, flags, **options)


def _ddp(title: str, **options: Any) -> Peer:
    return Peer(title, lambda arch, lr, _: ByDDP(arch, lr, **options), is_ddp=True)


PEERS = {
    "none": Peer("no communication", lambda arch, lr, _: ByTorch(arch, lr)),
    "sign": _choco("sign", "sign"),
    "sign_in_step": _choco("sign, exchange within the step", "sign", overlap=False),
    "top_k": _choco("top 1 %", "compress_top_k", compress_ratio=0.99),
    "random_k": _choco("random 1 %", "compress_random_k", compress_ratio=0.99),
    "qsgd_4": _choco("qsgd 4", "quantize_qsgd", quantize_level=4),
    "qsgd_8": _choco("qsgd 8", "quantize_qsgd", quantize_level=8),
    "sign_local_2": _choco("sign, 2 local steps", "sign", local_step=2),
    "sign_local_4": _choco("sign, 4 local steps", "sign", local_step=4),
    "sign_local_8": _choco("sign, 8 local steps", "sign", local_step=8),
    "power_gossip_1": _optimizer("PowerGossip, rank 1", PowerGossip),
    "power_gossip_2": _optimizer("PowerGossip, rank 2", PowerGossip, gossip_rank=2),
    "power_gossip_4": _optimizer("PowerGossip, rank 4", PowerGossip, gossip_rank=4),
    "power_gossip_4_prompt": _optimizer(
        "PowerGossip, rank 4, promptly", PowerGossip, gossip_rank=4, mix_promptly=True
    ),
    "power_gossip_1_local_4": _optimizer(
        "PowerGossip, rank 1, 4 local steps", PowerGossip, local_step=4
    ),
    "d_psgd": _optimizer("D-PSGD", DPSGD),
    "beer_sign": _compressed("BEER, sign", BEER, "sign"),
    "motef_sign": _compressed("MoTEF, sign", MoTEF, "sign"),
    "lead_qsgd_4": _compressed(
        "LEAD, qsgd 4", LEAD, "quantize_qsgd", {"quantize_level": 4, "is_biased": False}
    ),
    "qg": _optimizer("quasi-global momentum", QuasiGlobalSGD),
    "d2": _optimizer("D2", D2),
    "gradient_tracking": _optimizer("gradient tracking", GradientTracking),
    "decentlam": _optimizer("DecentLaM", DecentLaM),
    "sgp": _optimizer("SGP", SGP),
    "relay": _optimizer("RelaySGD, chain", RelaySGD, graph="chain"),
    "ddp": _ddp("DDP"),
    "ddp_bf16": _ddp("DDP, bf16", hook=bf16),
    "power_sgd_1": _ddp("DDP, PowerSGD rank 1", hook=power_sgd(1), one_bucket=True),
    "power_sgd_4": _ddp("DDP, PowerSGD rank 4", hook=power_sgd(4), one_bucket=True),
}
