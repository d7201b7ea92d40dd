"""The learning rate as a function of the fractional epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pcode.config.options import Config
from pcode.errors import UserError
from pcode.topology.base import Graph


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from `start` to `peak`, then division by `decay` at each milestone.

    Attributes:
        start, peak: learning rates; equal where there is no warm-up.
        warmup_epochs: length of the warm-up, in epochs.
        milestones: epochs at which the rate changes, ascending.
        decay: the divisor (below 1: a factor, as the original's flag is often given).
    """

    start: float
    peak: float
    warmup_epochs: float = 0.0
    milestones: tuple[float, ...] = ()
    decay: float = 10.0

    def __call__(self, epoch: float) -> float:
        """The learning rate at a fractional epoch, from 0."""
        factor = self.decay if self.decay < 1 else 1 / self.decay
        passed = sum(epoch >= milestone for milestone in self.milestones)
        rate = self.peak
        if epoch < self.warmup_epochs:
            rate = self.start + (self.peak - self.start) * epoch / self.warmup_epochs
        return rate * factor**passed


def _scale(config: Config, topology: Graph, rank: int) -> float:
    """How much larger than --lr the final learning rate of a node is."""
    learning, data = config.learning, config.data
    if not learning.lr_scaleup:
        return 1.0
    named = {"graph": topology.degree(rank) + 1.0, "world": float(topology.num_nodes)}
    try:
        factor = named.get(learning.lr_scaleup_factor) or float(learning.lr_scaleup_factor)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise UserError(
            f"--lr_scaleup_factor {learning.lr_scaleup_factor}: expected graph, world or a number"
        )
    scale = factor * data.batch_size / (data.base_batch_size or data.batch_size)
    return math.sqrt(scale) if learning.lr_scaleup_type == "sqrt" else scale


def make_schedule(config: Config, topology: Graph, rank: int) -> Schedule:
    """A node's schedule; nodes of an irregular graph differ with `--lr_scaleup_factor graph`.

    Raises:
        UserError: a factor that is no number, milestones missing or not ascending, decay 0.
    """
    learning = config.learning
    peak = learning.lr * _scale(config, topology, rank)
    milestones: tuple[float, ...] = ()
    if learning.lr_schedule_scheme == "custom_multistep":
        if learning.lr_change_epochs is None:
            raise UserError(
                "--lr_schedule_scheme custom_multistep: needs --lr_change_epochs, as in 150,225"
            )
        milestones = learning.lr_change_epochs
        if list(milestones) != sorted(set(milestones)):
            raise UserError(
                f"--lr_change_epochs {','.join(f'{m:g}' for m in milestones)}: must be ascending"
            )
    if learning.lr_decay <= 0:
        raise UserError(f"--lr_decay {learning.lr_decay:g}: must be above 0")
    warm = learning.lr_warmup
    return Schedule(
        start=learning.lr if warm else peak,
        peak=peak,
        warmup_epochs=learning.lr_warmup_epochs if warm else 0.0,
        milestones=milestones,
        decay=learning.lr_decay,
    )
