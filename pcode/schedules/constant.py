"""One learning rate for the whole run."""

from dataclasses import dataclass

from pcode.schedules.base import Scheme, learning_rate


@dataclass(kw_only=True, eq=False)
class Constant(Scheme):
    """lr throughout."""

    lr: float = learning_rate()

    def __call__(self, epoch: float) -> float:
        return self.lr
