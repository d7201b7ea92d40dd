"""The local step of a node: SGD with momentum, or Adam."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from pcode.compression.base import Compressor
from pcode.optim.flat import FlatStore, Groups
from pcode.optim.fused import FUSED_STEPS, FusedStep
from pcode.optim.sgd_update import SGDUpdate
from pcode.utils.errors import UserError
from pcode.utils.options import option, validate_options

# The columns of `sgd_update`, without gamma.
GROUP_OPTIONS = ("lr", "weight_decay", "momentum", "nesterov")


@dataclass(frozen=True)
class SGDOptions:
    """Options of an SGD local step, as of torch.optim.SGD, each of a param_group's by itself.

    lr and weight_decay are not here: they are those of the param_groups.
    """

    momentum: float = option(
        0.9, "momentum of the local step", minimum=0, maximum=1, name="momentum_factor"
    )
    nesterov: bool = option(False, "Nesterov momentum", name="use_nesterov")

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise UserError("--use_nesterov True: needs a --momentum_factor above 0")


@dataclass(frozen=True)
class AdamOptions:
    """Options of an Adam local step, the same for all param_groups, to which lr and weight_decay
    belong. `option` makes a field a flag; optim.local_options makes this object of the run's flags,
    and DecentralizedOptimizer gives it to LocalAdam.

    memory_treatment says what an exchange does to the moments: each node keeps its own (None), or
    they start again from 0 ("reset").
    """

    beta_1: float = option(
        0.9, "decay of Adam's first moment", "BETA", minimum=0, below=1, name="adam_beta_1"
    )
    beta_2: float = option(
        0.999, "decay of Adam's second moment", "BETA", minimum=0, below=1, name="adam_beta_2"
    )
    eps: float = option(1e-8, "added to Adam's denominator", "EPS", above=0, name="adam_eps")
    memory_treatment: str | None = option(
        None,
        "Adam's moments at an exchange: none keeps them, reset starts them again",
        choices=(None, "reset"),
        name="local_adam_memory_treatment",
    )

    def __post_init__(self) -> None:
        validate_options(self)


class LocalStep:
    """x -= lr d in one pass over the vectors.

    Args:
        store: x and g.
        groups: param_groups of the optimizer, in the order of store.slices.

    Attributes:
        vectors: what it keeps from step to step, by name.
    """

    vectors: dict[str, torch.Tensor]

    def __init__(self, store: FlatStore, groups: Groups) -> None:
        self.store, self.groups = store, groups

    def step(self) -> None:
        """Take a local step, from the gradients in store.g."""
        raise NotImplementedError

    def step_and_mix(self, z: torch.Tensor, gamma: float) -> None:
        """x -= lr d ; x += gamma z, from the gradients wherever they lie, in the store or not.

        LocalSGD does it in one kernel: `update_block` of sgd_update.py, or sgd_update_triton.py.
        """
        self.store.collect_gradients()
        self.step()
        self.store.x.add_(z, alpha=gamma)

    def fused_with(self, compressor: Compressor, z: torch.Tensor, gamma: float) -> FusedStep | None:
        """Return one pass over memory that adds messages, does `step_and_mix` and encodes.

        None where there is none for this local step, compressor and device.
        """
        return None

    def update_with(self, z: torch.Tensor, gamma: float) -> SGDUpdate | None:
        """Return the pass over the vectors that `step_and_mix` is; None where it is several."""
        return None

    def exchanged(self) -> None:
        """Do what is due after a step with an exchange."""


class LocalSGD(LocalStep):
    """d = g + weight_decay x ; buf = momentum buf + d ; with nesterov d += momentum buf, else buf.

    The first buf is d. It is torch.optim.SGD with dampening 0.
    """

    def __init__(self, store: FlatStore, groups: Groups) -> None:
        super().__init__(store, groups)
        self.buf = torch.zeros_like(store.x)
        self.vectors = {"buf": self.buf}

    def step(self) -> None:
        self._add(self.store.x)

    def step_and_mix(self, z: torch.Tensor, gamma: float) -> None:
        self.update_with(z, gamma)()

    def fused_with(self, compressor: Compressor, z: torch.Tensor, gamma: float) -> FusedStep | None:
        step = FUSED_STEPS.get(type(compressor))
        if step is None or z.device.type != "cpu":
            return None
        return partial(step, self.update_with(z, gamma))

    def update_with(self, z: torch.Tensor, gamma: float) -> SGDUpdate:
        rows = [[*(group[name] for name in GROUP_OPTIONS), gamma] for group in self.groups]
        num_tensors = [len(group["params"]) for group in self.groups]
        coefficients = np.array(rows, dtype=np.float32).repeat(num_tensors, axis=0)
        gradients = self.store.gradients()
        return SGDUpdate(self.store.layout, self.store.x, self.buf, z, gradients, coefficients)

    def add_weight_decay(self) -> None:
        """g += weight_decay x."""
        for group, part in zip(self.groups, self.store.slices, strict=True):
            self.store.g[part].add_(self.store.x[part], alpha=group["weight_decay"])

    def add_direction(self, target: torch.Tensor) -> None:
        """target += d without weight decay, instead of x -= lr d."""
        self._add(target, lr=-1.0, weight_decay=0.0)

    def _add(self, target: torch.Tensor, **fixed: Any) -> None:
        """target -= lr d; what is fixed wins over the options of the groups."""
        for group, part in zip(self.groups, self.store.slices, strict=True):
            options: dict[str, Any] = {name: group[name] for name in GROUP_OPTIONS} | fixed
            sgd(
                [target[part]],
                [self.store.g[part]],
                [self.buf[part]],
                fused=True,
                dampening=0.0,
                maximize=False,
                **options,
            )


class LocalAdam(LocalStep):
    """Adam (Kingma and Ba, 2015, Algorithm 1) with L2 weight decay: torch.optim.Adam."""

    def __init__(self, store: FlatStore, groups: Groups, options: AdamOptions) -> None:
        super().__init__(store, groups)
        self.options = options
        self.vectors = {
            "exp_avg": torch.zeros_like(store.x),
            "exp_avg_sq": torch.zeros_like(store.x),
            "adam_steps": torch.zeros(len(groups), device=store.x.device),
        }

    def step(self) -> None:
        first, second, all_steps = self.vectors.values()
        for group, part, steps in zip(self.groups, self.store.slices, all_steps, strict=True):
            adam(
                [self.store.x[part]],
                [self.store.g[part]],
                [first[part]],
                [second[part]],
                [],
                [steps],
                fused=True,
                amsgrad=False,
                beta1=self.options.beta_1,
                beta2=self.options.beta_2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=self.options.eps,
                maximize=False,
            )

    def exchanged(self) -> None:
        if self.options.memory_treatment == "reset":
            for vector in self.vectors.values():
                vector.zero_()
