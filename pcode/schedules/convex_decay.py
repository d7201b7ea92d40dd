"""The learning rate of the theory for strongly convex losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pcode.schedules.base import Scheme
from pcode.utils.errors import UserError
from pcode.utils.options import Option

Rate = Callable[[float], float]


def _without_convex_phase(flags: Mapping[str, Any]) -> str | None:
    indicators = flags["lr_scale_indicators"]
    if flags["lr_schedule_scheme"] == "strict" and indicators is not None and 2 not in indicators:
        return "none of --lr_scale_indicators is 2, convex decay"
    return None


Gamma = Annotated[
    float | None,
    Option(
        "convex decay: the rate before scale-up is lr_gamma / (lr_mu (lr_alpha + epochs))",
        irrelevant=_without_convex_phase,
        default=None,
    ),
]
Mu = Annotated[
    float | None,
    Option(
        "convex decay: divides the rate, as strong convexity does",
        irrelevant=_without_convex_phase,
        default=None,
    ),
]
Alpha = Annotated[
    float | None,
    Option(
        "convex decay: epochs to add to those since training began",
        irrelevant=_without_convex_phase,
        default=None,
    ),
]


def convex_rate(
    lr_gamma: float | None, lr_mu: float | None, lr_alpha: float | None, begin: float = 0.0
) -> Rate:
    """lr_gamma / (lr_mu (lr_alpha + t)) as a function of t, the epochs since training began.

    Args:
        begin: the first epoch at which it is wanted.

    Raises:
        UserError: an argument is missing, or the rate is not above 0 from `begin` on.
    """
    gamma, mu, alpha = lr_gamma, lr_mu, lr_alpha
    if gamma is None or mu is None or alpha is None:
        given = {"lr_gamma": gamma, "lr_mu": mu, "lr_alpha": alpha}
        missing = " and ".join(f"--{name}" for name, value in given.items() if value is None)
        raise UserError(f"needs {missing}, for the rate lr_gamma / (lr_mu (lr_alpha + epochs))")
    for name, value in (("lr_gamma", gamma), ("lr_mu", mu)):
        if value <= 0:
            raise UserError(f"--{name} {value:g}: must be above 0")
    if alpha + begin <= 0:
        raise UserError(
            f"--lr_alpha {alpha:g}: must be above {0 - begin:g}, as lr_alpha + epochs divides "
            f"the rate from epoch {begin:g} on"
        )
    return lambda epoch: gamma / (mu * (alpha + epoch))


class ConvexDecay(Scheme):
    """lr_gamma / (lr_mu (lr_alpha + t)), t the epochs since training began.

    The decay that the rates for strongly convex losses ask for, as that of CHOCO-SGD in
    arXiv 1902.00340, with t in fractional epochs where the theory has steps. lr_mu is the strong
    convexity of the loss, which an L2 penalty's weight bounds from below.
    """

    def __init__(self, end: float, *, lr_gamma: Gamma, lr_mu: Mu, lr_alpha: Alpha) -> None:
        super().__init__(end)
        self.rate = convex_rate(lr_gamma, lr_mu, lr_alpha)

    def __call__(self, epoch: float) -> float:
        return self.rate(epoch)

    @property
    def turning_points(self) -> tuple[float, ...]:
        return (self.end,)
