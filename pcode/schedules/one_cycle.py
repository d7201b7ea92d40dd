"""A learning rate that rises, falls, and dwindles at the end."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np

from pcode.schedules.base import Scheme
from pcode.utils.errors import UserError
from pcode.utils.options import Option


class OneCycle(Scheme):
    """Linear from low to high and back in lr_onecycle_num_epoch epochs, then to extra low.

    The one-cycle policy (Smith and Topin, arXiv 1708.07120), for the learning rate alone: the
    momentum stays what it is. The last stretch, from low to extra low, takes what is left of the
    training after the cycle; without any, training ends at low.

    Args:
        lr_onecycle_low, lr_onecycle_high, lr_onecycle_extra_low: rates.
        lr_onecycle_num_epoch: length of the cycle in epochs, half of it up and half of it down.
    """

    follows_the_end: ClassVar[bool] = True

    def __init__(
        self,
        end: float,
        *,
        lr_onecycle_low: Annotated[
            float,
            Option("one cycle: rate at its beginning and its end, before scale-up", minimum=0),
        ] = 0.15,
        lr_onecycle_high: Annotated[
            float, Option("one cycle: rate at its middle, before scale-up", minimum=0)
        ] = 3.0,
        lr_onecycle_extra_low: Annotated[
            float, Option("one cycle: rate at the end of training, before scale-up", minimum=0)
        ] = 0.0015,
        lr_onecycle_num_epoch: Annotated[
            float,
            Option(
                "one cycle: its length in epochs; the rest of training goes from low to extra low",
                metavar="EPOCHS",
            ),
        ] = 46,
    ) -> None:
        super().__init__(end)
        length = lr_onecycle_num_epoch
        if length <= 0:
            raise UserError(f"--lr_onecycle_num_epoch {length:g}: must be above 0")
        if length > end:
            raise UserError(
                f"--lr_onecycle_num_epoch {length:g}: training ends after {end:.6g} epochs; "
                "at most that many, or train longer"
            )
        self.epochs: tuple[float, ...] = (0.0, length / 2, length)
        self.rates: tuple[float, ...] = (lr_onecycle_low, lr_onecycle_high, lr_onecycle_low)
        if length < end:
            self.epochs += (end,)
            self.rates += (lr_onecycle_extra_low,)

    def __call__(self, epoch: float) -> float:
        return float(np.interp(epoch, self.epochs, self.rates))

    @property
    def peak(self) -> float:
        return max(self.rates)

    @property
    def turning_points(self) -> tuple[float, ...]:
        return self.epochs
