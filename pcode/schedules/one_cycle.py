"""A learning rate that rises, falls, and dwindles at the end."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pcode.schedules.base import Scheme
from pcode.utils.errors import UserError
from pcode.utils.options import option


@dataclass(kw_only=True, eq=False)
class OneCycle(Scheme):
    """Linear from low to high and back in lr_onecycle_num_epoch epochs, then to extra low.

    The one-cycle policy (Smith and Topin, arXiv 1708.07120), for the learning rate alone: the
    momentum stays what it is. The last stretch, from low to extra low, takes what is left of the
    training after the cycle; without any, training ends at low.
    """

    follows_the_end: ClassVar[bool] = True
    lr_onecycle_low: float = option(
        0.15, "one cycle: rate at its beginning and its end, before scale-up", minimum=0
    )
    lr_onecycle_high: float = option(
        3.0, "one cycle: rate at its middle, before scale-up", minimum=0
    )
    lr_onecycle_extra_low: float = option(
        0.0015, "one cycle: rate at the end of training, before scale-up", minimum=0
    )
    lr_onecycle_num_epoch: float = option(
        46,
        "one cycle: its length in epochs; the rest of training goes from low to extra low",
        metavar="EPOCHS",
    )

    def __post_init__(self) -> None:
        length = self.lr_onecycle_num_epoch
        if length <= 0:
            raise UserError(f"--lr_onecycle_num_epoch {length:g}: must be above 0")
        if length > self.end:
            raise UserError(
                f"--lr_onecycle_num_epoch {length:g}: training ends after {self.end:.6g} epochs; "
                "at most that many, or train longer"
            )
        low, high = self.lr_onecycle_low, self.lr_onecycle_high
        self.turning_points, self.rates = (0.0, length / 2, length), [low, high, low]
        if length < self.end:
            self.turning_points += (self.end,)
            self.rates.append(self.lr_onecycle_extra_low)

    def __call__(self, epoch: float) -> float:
        return float(np.interp(epoch, self.turning_points, self.rates))

    @property
    def peak(self) -> float:
        return max(self.rates)
