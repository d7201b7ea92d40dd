"""Learning rates over phases of the training: one cycle, any phases, and convex theory's decay."""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np

from pcode.schedules.base import Scheme, change_epochs, check_ascending, in_words
from pcode.utils.errors import UserError
from pcode.utils.options import option

Rate = Callable[[float], float]


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


def _without_convex_phase(flags: Mapping[str, Any]) -> str | None:
    indicators = flags["lr_scale_indicators"]
    if flags["lr_schedule_scheme"] == "strict" and indicators is not None and 2 not in indicators:
        return "none of --lr_scale_indicators is 2, convex decay"
    return None


# Options of convex decay, also of its phases in others.
_convex_option = partial(option, None, irrelevant=_without_convex_phase)


@dataclass(kw_only=True, eq=False)
class _Convex(Scheme):
    """What schemes with the decay of convex theory share."""

    lr_gamma: float | None = _convex_option(
        "convex decay: the rate before scale-up is lr_gamma / (lr_mu (lr_alpha + epochs))"
    )
    lr_mu: float | None = _convex_option("convex decay: divides the rate, as strong convexity does")
    lr_alpha: float | None = _convex_option(
        "convex decay: epochs to add to those since training began"
    )

    def convex_rate(self, begin: float = 0.0) -> Rate:
        """Return lr_gamma / (lr_mu (lr_alpha + t)) as a function of t, epochs since the beginning.

        It is a UserError where an option is missing, or that is not above 0 from `begin` on.
        """
        gamma, mu, alpha = self.lr_gamma, self.lr_mu, self.lr_alpha
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


@dataclass(kw_only=True, eq=False)
class ConvexDecay(_Convex):
    """lr_gamma / (lr_mu (lr_alpha + t)), t the epochs since training began.

    The decay that the rates for strongly convex losses ask for, as that of CHOCO-SGD in
    arXiv 1902.00340, with t in fractional epochs where the theory has steps. lr_mu is the strong
    convexity of the loss, which an L2 penalty's weight bounds from below.
    """

    def __post_init__(self) -> None:
        self.turning_points = (self.end,)
        self.rate = self.convex_rate()

    def __call__(self, epoch: float) -> float:
        return self.rate(epoch)


class Phase(NamedTuple):
    """A stretch of training, from an epoch on, with one formula for the rate, and the largest."""

    begin: float
    rate: Rate
    largest: float


# Rates over the share s of a phase that has passed, from a to b.
COURSES: dict[int, Callable[[float, float, float], float]] = {
    0: lambda s, a, b: a + (b - a) * s,
    1: lambda s, a, b: b + (a - b) * (1 - s) ** 2,
}
CONVEX = 2


@dataclass(kw_only=True, eq=False)
class Strict(_Convex):
    """Phase after phase: linear, polynomial or convex decay.

    The phases are delimited by 0, each of lr_change_epochs and the end of training; where a phase
    ends and the next begins, the next one's rate holds. Writing s for the share of the phase that
    has passed, from a to b: linear a + (b - a) s; polynomial b + (a - b) (1 - s)^2; convex decay
    lr_gamma / (lr_mu (lr_alpha + t)) with t the epochs since *training* began, as ConvexDecay.

    lr_change_epochs are ascending, within the training; they may also name 0 and the end. Of
    lr_fields, a,b/c,d/..., those of convex decay are not used.
    """

    lr_change_epochs: tuple[float, ...] | None = change_epochs()
    lr_fields: str | None = option(
        None, "strict: rates at the beginning and the end of each phase, before scale-up: a,b/c,d"
    )
    lr_scale_indicators: tuple[int, ...] | None = option(
        None, "strict: how each phase changes: 0 linear, 1 polynomial (power 2), 2 convex decay"
    )

    def __post_init__(self) -> None:
        if self.lr_fields is None:
            raise UserError("needs --lr_fields, as 0.1,1/1,0.1 for two phases")
        if self.lr_scale_indicators is None:
            raise UserError("needs --lr_scale_indicators, as 0,1 for two phases")
        pairs, kinds = _pairs(self.lr_fields), self.lr_scale_indicators
        spans = _spans(self.lr_change_epochs or (), self.end)
        given = f"--lr_scale_indicators {in_words(kinds)}"
        _check_count(f"--lr_fields {self.lr_fields}", len(pairs), spans)
        _check_count(given, len(kinds), spans)
        if not set(kinds) <= {*COURSES, CONVEX}:
            raise UserError(
                f"{given}: expected 0 (linear), 1 (polynomial) or 2 (convex decay) for each phase"
            )
        self.phases = [
            self._phase(kind, *span, *pair)
            for kind, span, pair in zip(kinds, spans, pairs, strict=True)
        ]
        self.turning_points = (*(phase.begin for phase in self.phases), self.end)

    def _phase(self, kind: int, begin: float, end: float, a: float, b: float) -> Phase:
        if kind == CONVEX:
            rate = self.convex_rate(begin)
            return Phase(begin, rate, rate(begin))
        course = COURSES[kind]
        return Phase(begin, lambda epoch: course((epoch - begin) / (end - begin), a, b), max(a, b))

    def __call__(self, epoch: float) -> float:
        current = bisect_right(self.phases, epoch, key=lambda phase: phase.begin) - 1
        return self.phases[current].rate(epoch)

    @property
    def peak(self) -> float:
        return max(phase.largest for phase in self.phases)


def _spans(lr_change_epochs: tuple[float, ...], end: float) -> list[tuple[float, float]]:
    """Return the phases between 0, what is given and the end of training, each named once."""
    check_ascending(lr_change_epochs)
    if lr_change_epochs and lr_change_epochs[-1] > end:
        raise UserError(
            f"--lr_change_epochs {in_words(lr_change_epochs)}: training ends after {end:.6g} "
            "epochs; leave out what is later, or train longer"
        )
    return list(pairwise(sorted({0.0, *lr_change_epochs, end})))


def _pairs(lr_fields: str) -> list[tuple[float, float]]:
    """Parse the rates at the beginning and the end of each phase."""
    try:
        pairs = [
            (float(a), float(b)) for a, b in (pair.split(",") for pair in lr_fields.split("/"))
        ]
        if all(0 <= rate < math.inf for pair in pairs for rate in pair):
            return pairs
    except ValueError:
        pass
    raise UserError(
        f"--lr_fields {lr_fields!r}: expected the rates, from 0 up, at the beginning and the end "
        "of each phase, as 0.1,1/1,0.1 for two phases"
    )


def _check_count(given: str, count: int, spans: list[tuple[float, float]]) -> None:
    """Validate that something is given once for each phase."""
    if count != len(spans):
        listed = ", ".join(f"{begin:g} to {end:g}" for begin, end in spans)
        raise UserError(
            f"{given}: is for {count} of the phases that --lr_change_epochs and the end of "
            f"training make; there are {len(spans)} (epochs {listed})"
        )
