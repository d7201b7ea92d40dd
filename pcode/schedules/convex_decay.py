"""The learning rate of the theory for strongly convex losses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pcode.schedules.base import Scheme
from pcode.utils.errors import UserError
from pcode.utils.options import option

Rate = Callable[[float], float]


def _without_convex_phase(flags: Mapping[str, Any]) -> str | None:
    indicators = flags["lr_scale_indicators"]
    if flags["lr_schedule_scheme"] == "strict" and indicators is not None and 2 not in indicators:
        return "none of --lr_scale_indicators is 2, convex decay"
    return None


# Options of convex decay, also of its phases in others.
_convex_option = partial(option, None, irrelevant=_without_convex_phase)
gamma = partial(
    _convex_option,
    "convex decay: the rate before scale-up is lr_gamma / (lr_mu (lr_alpha + epochs))",
)
mu = partial(_convex_option, "convex decay: divides the rate, as strong convexity does")
alpha = partial(_convex_option, "convex decay: epochs to add to those since training began")


def convex_rate(
    lr_gamma: float | None, lr_mu: float | None, lr_alpha: float | None, begin: float = 0.0
) -> Rate:
    """Return lr_gamma / (lr_mu (lr_alpha + t)) as a function of t, epochs since training began.

    Args:
        begin: the first epoch at which it is wanted.

    Raises:
        UserError: an argument is missing, or the rate is not above 0 from `begin` on.
    """
    if lr_gamma is None or lr_mu is None or lr_alpha is None:
        given = {"lr_gamma": lr_gamma, "lr_mu": lr_mu, "lr_alpha": lr_alpha}
        missing = " and ".join(f"--{name}" for name, value in given.items() if value is None)
        raise UserError(f"needs {missing}, for the rate lr_gamma / (lr_mu (lr_alpha + epochs))")
    for name, value in (("lr_gamma", lr_gamma), ("lr_mu", lr_mu)):
        if value <= 0:
            raise UserError(f"--{name} {value:g}: must be above 0")
    if lr_alpha + begin <= 0:
        raise UserError(
            f"--lr_alpha {lr_alpha:g}: must be above {0 - begin:g}, as lr_alpha + epochs divides "
            f"the rate from epoch {begin:g} on"
        )
    return lambda epoch: lr_gamma / (lr_mu * (lr_alpha + epoch))


@dataclass(kw_only=True, eq=False)
class ConvexDecay(Scheme):
    """lr_gamma / (lr_mu (lr_alpha + t)), t the epochs since training began.

    The decay that the rates for strongly convex losses ask for, as that of CHOCO-SGD in
    arXiv 1902.00340, with t in fractional epochs where the theory has steps. lr_mu is the strong
    convexity of the loss, which an L2 penalty's weight bounds from below.
    """

    lr_gamma: float | None = gamma()
    lr_mu: float | None = mu()
    lr_alpha: float | None = alpha()

    def __post_init__(self) -> None:
        self.turning_points = (self.end,)
        self.rate = convex_rate(self.lr_gamma, self.lr_mu, self.lr_alpha)

    def __call__(self, epoch: float) -> float:
        return self.rate(epoch)
