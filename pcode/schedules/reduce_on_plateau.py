"""A learning rate that drops when the training loss stalls."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pcode.schedules.base import Scheme, decay_factor, learning_rate, rate_decay
from pcode.utils.errors import UserError


@dataclass(kw_only=True, eq=False)
class ReduceOnPlateau(Scheme):
    """lr, divided by lr_decay when the training loss has not improved for 10 epochs.

    torch.optim.lr_scheduler.ReduceLROnPlateau with its defaults: the loss must fall by more than
    1e-4 of the best so far to count as improved, and the rate drops at the 11th epoch in a row
    that did not. All nodes observe the same loss, so that all drop at once. lr_decay is the
    divisor; below 1 a factor.
    """

    lr: float = learning_rate()
    lr_decay: float = rate_decay()

    def __post_init__(self) -> None:
        factor = decay_factor(self.lr_decay)
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
