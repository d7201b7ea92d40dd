"""A learning rate that drops at milestones."""

from __future__ import annotations

from bisect import bisect_right

from pcode.schedules.base import (
    ChangeEpochs,
    LearningRate,
    LearningRateDecay,
    Scheme,
    check_ascending,
    decay_factor,
)
from pcode.utils.errors import UserError


class MultiStep(Scheme):
    """lr, divided by lr_decay at each of lr_change_epochs.

    The schedule of the paper's experiments (arXiv 1907.09356): divided by 10 at half and at three
    quarters of the training.

    Args:
        lr_change_epochs: ascending; those after the end of training have no effect.
        lr_decay: the divisor; below 1 a factor, as it is often given.
    """

    def __init__(
        self,
        end: float,
        *,
        lr: LearningRate,
        lr_change_epochs: ChangeEpochs,
        lr_decay: LearningRateDecay,
    ) -> None:
        super().__init__(end)
        if lr_change_epochs is None:
            raise UserError("needs --lr_change_epochs, as in 150,225")
        check_ascending(lr_change_epochs)
        self.lr, self.milestones, self.factor = lr, lr_change_epochs, decay_factor(lr_decay)

    def __call__(self, epoch: float) -> float:
        passed = bisect_right(self.milestones, epoch)
        return float(self.lr * self.factor**passed)

    @property
    def turning_points(self) -> tuple[float, ...]:
        return self.milestones
