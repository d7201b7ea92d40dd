"""One learning rate for the whole run."""

from __future__ import annotations

from pcode.schedules.base import LearningRate, Scheme


class Constant(Scheme):
    """lr throughout."""

    def __init__(self, end: float, *, lr: LearningRate) -> None:
        super().__init__(end)
        self.lr = lr

    def __call__(self, epoch: float) -> float:
        return self.lr
