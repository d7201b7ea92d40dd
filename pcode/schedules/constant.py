"""One learning rate for the whole run."""

from __future__ import annotations

from typing import ClassVar

from pcode.schedules.base import Scheme


class Constant(Scheme):
    """lr throughout."""

    flags: ClassVar[tuple[str, ...]] = ("lr",)

    def __init__(self, end: float, *, lr: float) -> None:
        super().__init__(end)
        self.lr = lr

    def __call__(self, epoch: float) -> float:
        return self.lr
