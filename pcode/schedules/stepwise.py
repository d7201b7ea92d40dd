"""Learning rates that stay, or drop in steps: at milestones, or when the training loss stalls."""

from bisect import bisect_right
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pcode.schedules.base import Scheme, change_epochs, check_ascending
from pcode.utils.errors import UserError
from pcode.utils.options import option

# Options that several of these have.
_learning_rate = partial(
    option, 0.1, "learning rate, before scale-up; that at the beginning where it changes", minimum=0
)
_rate_decay = partial(
    option, 10.0, "divide the rate by this at each change (a value below 1 multiplies)"
)


def _factor(lr_decay: float) -> float:
    """Return what `--lr_decay` multiplies the rate by: itself below 1, its inverse from 1 on."""
    if lr_decay <= 0:
        example = "as 10 or 0.1 for a tenth of the rate"
        raise UserError(f"--lr_decay {lr_decay:g}: must be above 0, {example}")
    return lr_decay if lr_decay < 1 else 1 / lr_decay


@dataclass(kw_only=True, eq=False)
class Constant(Scheme):
    """lr throughout."""

    lr: float = _learning_rate()

    def __call__(self, epoch: float) -> float:
        return self.lr


@dataclass(kw_only=True, eq=False)
class MultiStep(Scheme):
    """lr, divided by lr_decay at each of lr_change_epochs.

    The schedule of the paper's experiments (arXiv 1907.09356): divided by 10 at half and at three
    quarters of the training. Epochs after the end have no effect; lr_decay is the divisor, below 1
    a factor.
    """

    lr: float = _learning_rate()
    lr_change_epochs: tuple[float, ...] | None = change_epochs()
    lr_decay: float = _rate_decay()

    def __post_init__(self) -> None:
        if self.lr_change_epochs is None:
            raise UserError("needs --lr_change_epochs, as in 150,225")
        check_ascending(self.lr_change_epochs)
        self.turning_points = self.lr_change_epochs
        self.factor = _factor(self.lr_decay)

    def __call__(self, epoch: float) -> float:
        return float(self.lr * self.factor ** bisect_right(self.turning_points, epoch))


@dataclass(kw_only=True, eq=False)
class ReduceOnPlateau(Scheme):
    """lr, divided by lr_decay when the training loss has not improved for 10 epochs.

    torch.optim.lr_scheduler.ReduceLROnPlateau with its defaults: the loss must fall by more than
    1e-4 of the best so far to count as improved, and the rate drops at the 11th epoch in a row
    that did not. All nodes observe the same loss, so that all drop at once. lr_decay is the
    divisor; below 1 a factor.
    """

    lr: float = _learning_rate()
    lr_decay: float = _rate_decay()

    def __post_init__(self) -> None:
        factor = _factor(self.lr_decay)
        if factor == 1:
            raise UserError("--lr_decay 1: would never change the rate; above 1, or below it")
        # torch's rule changes the rate of an optimizer: this one holds the rate and steps nothing.
        self._holder = torch.optim.SGD([torch.zeros(1)], lr=self.lr)
        self._rule = ReduceLROnPlateau(self._holder, factor=factor)

    def __call__(self, epoch: float) -> float:
        return float(self._holder.param_groups[0]["lr"])

    @property
    def peak(self) -> float:
        return self.lr

    def observe(self, loss: float) -> None:
        self._rule.step(loss)

    def state_dict(self) -> dict[str, Any]:
        return {"rate": self(0.0), "rule": self._rule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._holder.param_groups[0]["lr"] = state["rate"]
        self._rule.load_state_dict(state["rule"])
