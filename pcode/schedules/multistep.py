"""One learning rate for the whole run, or one that drops at milestones."""

from bisect import bisect_right
from dataclasses import dataclass

from pcode.schedules.base import (
    Scheme,
    change_epochs,
    check_ascending,
    decay_factor,
    learning_rate,
    rate_decay,
)
from pcode.utils.errors import UserError


@dataclass(kw_only=True, eq=False)
class Constant(Scheme):
    """lr throughout."""

    lr: float = learning_rate()

    def __call__(self, epoch: float) -> float:
        return self.lr


@dataclass(kw_only=True, eq=False)
class MultiStep(Scheme):
    """lr, divided by lr_decay at each of lr_change_epochs.

    The schedule of the paper's experiments (arXiv 1907.09356): divided by 10 at half and at three
    quarters of the training. Epochs after the end have no effect; lr_decay is the divisor, below 1
    a factor.
    """

    lr: float = learning_rate()
    lr_change_epochs: tuple[float, ...] | None = change_epochs()
    lr_decay: float = rate_decay()

    def __post_init__(self) -> None:
        if self.lr_change_epochs is None:
            raise UserError("needs --lr_change_epochs, as in 150,225")
        check_ascending(self.lr_change_epochs)
        self.turning_points = self.lr_change_epochs
        self.factor = decay_factor(self.lr_decay)

    def __call__(self, epoch: float) -> float:
        return float(self.lr * self.factor ** bisect_right(self.turning_points, epoch))
