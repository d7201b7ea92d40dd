"""One node of a run: its model, its law and its training step."""

from __future__ import annotations

import hashlib
import math
import time

import torch
from torch import nn
from torch.nn import functional

from pcode.communication import Communicator
from pcode.errors import DivergenceError
from pcode.models import normalization_parameters
from pcode.optim import Law, make_law, parameter_groups
from pcode.seeding import derive_seed
from pcode.training.plan import Plan, local_options


class Node:
    """One node's model and law.

    Args:
        plan: the run's plan, the same on every node.
        communicator: this node's view of the others.
    """

    def __init__(self, plan: Plan, communicator: Communicator) -> None:
        self.plan, self.communicator, self.rank = plan, communicator, communicator.rank
        learning = plan.config.learning
        self.seed = learning.manual_seed
        self.schedule = plan.schedule(self.rank)
        self.model = plan.model()
        groups = parameter_groups(
            self.model, learning.weight_decay, normalization_parameters(self.model)
        )
        self.law: Law = make_law(
            learning.optimizer,
            groups,
            communicator,
            plan.topology,
            local=local_options(plan.config),
            flags=plan.config.flat(),
            gossip={"compressor": plan.compressor, "seed": self.seed},
        )
        clips_here = learning.clip_grad and "clip_grad" not in self.law.flags
        self.clip_norm = learning.clip_grad_val if clips_here else None
        self.timer = self.law.timer
        self.timed_steps = 0
        self.timed_seconds = 0.0

    def train_step(self, batch: torch.Tensor) -> float:
        """One step on the samples of `batch`; the loss before it.

        Raises:
            DivergenceError: the loss, or what is to be compressed, is not finite.
            CommunicationError: an exchange failed.
        """
        step, dataset = self.law.num_steps, self.plan.dataset
        start = time.perf_counter()
        with self.timer("data"):
            inputs = dataset.train_inputs.index_select(0, batch)
            targets = dataset.train_targets.index_select(0, batch)
        self.law.epoch = step / self.plan.steps_per_epoch
        rate = self.schedule(self.law.epoch)
        for group in self.law.param_groups:
            group["lr"] = rate
        # Dropout draws from torch's global generator: it starts from this step's own number.
        torch.default_generator.manual_seed(derive_seed(self.seed, "forward", self.rank, step))
        with self.timer("forward"):
            loss = functional.cross_entropy(self.model(inputs), targets)
        with self.timer("backward"):
            self.law.zero_grad()
            loss.backward()
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.law.step()
        self.timed_steps += 1
        self.timed_seconds += time.perf_counter() - start
        value = loss.item()
        if not math.isfinite(value):
            raise DivergenceError(f"rank {self.rank}, step {step}: the training loss is {value}")
        return value

    def restart_timer(self) -> None:
        """Forget the times of the steps so far."""
        self.timer.reset()
        self.timed_steps, self.timed_seconds = 0, 0.0

    def step_seconds(self) -> dict[str, float] | None:
        """Mean seconds of a step and of its parts; None where none was timed."""
        if self.timed_steps == 0:
            return None
        parts = {"total": self.timed_seconds, **self.timer.seconds}
        return {name: seconds / self.timed_steps for name, seconds in parts.items()}

    def finish(self) -> None:
        """Take in the last messages.

        Raises:
            DivergenceError: the parameters are not finite.
            CommunicationError: an exchange failed.
        """
        self.law.finish()
        if not bool(self.law.x.isfinite().all()):
            raise DivergenceError(f"rank {self.rank}: the parameters are not finite numbers")


def parameters_digest(model: nn.Module) -> bytes:
    """SHA-256 of the float32 parameters, in the order of model.named_parameters()."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.digest()
