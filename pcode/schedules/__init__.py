"""Learning-rate schemes: the rate of a node before scale-up, as a function of the fractional epoch.

A new scheme is one file with a subclass of Scheme and one line in SCHEMES.
"""

from typing import Any

from pcode.schedules.base import Scheme
from pcode.schedules.phases import ConvexDecay, OneCycle, Strict
from pcode.schedules.stepwise import Constant, MultiStep, ReduceOnPlateau
from pcode.utils.errors import naming_flags
from pcode.utils.options import look_up

__all__ = ["ALIASES", "SCHEMES", "Scheme", "make_scheme"]

SCHEMES: dict[str, type[Scheme]] = {
    "constant": Constant,
    "custom_multistep": MultiStep,
    "strict": Strict,
    "custom_one_cycle": OneCycle,
    "custom_convex_decay": ConvexDecay,
    "reduce_on_plateau": ReduceOnPlateau,
}
ALIASES = {"MultiStepLR": "custom_multistep"}


def make_scheme(name: str, end: float, **options: Any) -> Scheme:
    """Make the scheme of that name, with its own options, for a training of `end` epochs.

    It is a UserError where no scheme has that name, or it cannot follow its options.
    """
    with naming_flags(f"--lr_schedule_scheme {name}"):
        return look_up("lr_schedule_scheme", name, SCHEMES)(end, **options)
