"""A learning rate put together from phases."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, NamedTuple

from pcode.schedules.base import ChangeEpochs, Scheme, check_ascending, in_words
from pcode.schedules.convex_decay import Alpha, Gamma, Mu, Rate, convex_rate
from pcode.utils.errors import UserError
from pcode.utils.options import Option


class Phase(NamedTuple):
    """A stretch of training with one formula for the rate.

    Attributes:
        begin: the epoch from which it holds, until the next phase begins.
        rate: fractional epoch -> learning rate.
        largest: its largest rate.
    """

    begin: float
    rate: Rate
    largest: float


def _over(begin: float, end: float, course: Callable[[float], float]) -> Rate:
    """A course over the share s of a phase that has passed, as a function of the epoch."""
    return lambda epoch: course((epoch - begin) / (end - begin))


def _linear(a: float, b: float) -> Callable[[float], float]:
    return lambda s: a + (b - a) * s


def _polynomial(a: float, b: float) -> Callable[[float], float]:
    return lambda s: b + (a - b) * (1 - s) ** 2


COURSES = {0: _linear, 1: _polynomial}
CONVEX = 2


def _boundaries(lr_change_epochs: tuple[float, ...], end: float) -> tuple[float, ...]:
    """Where the phases begin and end: 0 and the end of training, each once, and what is given."""
    check_ascending(lr_change_epochs)
    if lr_change_epochs and lr_change_epochs[-1] > end:
        raise UserError(
            f"--lr_change_epochs {in_words(lr_change_epochs)}: training ends after {end:.6g} "
            "epochs; leave out what is later, or train longer"
        )
    return tuple(sorted({0.0, *lr_change_epochs, end}))


def _pairs(lr_fields: str) -> list[tuple[float, float]]:
    """The rates at the beginning and the end of each phase."""
    try:
        pairs = [tuple(float(rate) for rate in pair.split(",")) for pair in lr_fields.split("/")]
    except ValueError:
        pairs = [()]
    found = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    if len(found) < len(pairs) or not all(0 <= rate < math.inf for pair in found for rate in pair):
        raise UserError(
            f"--lr_fields {lr_fields!r}: expected the rates, from 0 up, at the beginning and the "
            "end of each phase, as 0.1,1/1,0.1 for two phases"
        )
    return found


def _check_count(given: str, count: int, spans: list[tuple[float, float]]) -> None:
    """Refuse what is not given once for each phase."""
    if count != len(spans):
        listed = ", ".join(f"{begin:g} to {end:g}" for begin, end in spans)
        raise UserError(
            f"{given}: is for {count} of the phases that --lr_change_epochs and the end of "
            f"training make; there are {len(spans)} (epochs {listed})"
        )


class Strict(Scheme):
    """Phase after phase: linear, polynomial or convex decay.

    The phases are delimited by 0, each of lr_change_epochs and the end of training; where a phase
    ends and the next begins, the next one's rate holds. Writing s for the share of the phase that
    has passed, from a to b: linear a + (b - a) s; polynomial b + (a - b) (1 - s)^2; convex decay
    lr_gamma / (lr_mu (lr_alpha + t)) with t the epochs since *training* began, as ConvexDecay.

    Args:
        lr_change_epochs: ascending, within the training; none for a single phase. It may also
            name 0 and the end.
        lr_fields: a,b/c,d/...: the rates at the beginning and the end of each phase; those of a
            phase of convex decay are not used.
        lr_scale_indicators: a number for each phase: 0 linear, 1 polynomial, 2 convex decay.
        lr_gamma, lr_mu, lr_alpha: of convex decay.
    """

    def __init__(
        self,
        end: float,
        *,
        lr_change_epochs: ChangeEpochs,
        lr_fields: Annotated[
            str | None,
            Option(
                "strict: rates at the beginning and the end of each phase, before scale-up: a,b/c,d"
            ),
        ] = None,
        lr_scale_indicators: Annotated[
            tuple[int, ...] | None,
            Option(
                "strict: how each phase changes: 0 linear, 1 polynomial (power 2), 2 convex decay"
            ),
        ] = None,
        lr_gamma: Gamma,
        lr_mu: Mu,
        lr_alpha: Alpha,
    ) -> None:
        super().__init__(end)
        if lr_fields is None:
            raise UserError("needs --lr_fields, as 0.1,1/1,0.1 for two phases")
        if lr_scale_indicators is None:
            raise UserError("needs --lr_scale_indicators, as 0,1 for two phases")
        pairs, indicators = _pairs(lr_fields), in_words(lr_scale_indicators)
        spans = list(pairwise(_boundaries(lr_change_epochs or (), end)))
        _check_count(f"--lr_fields {lr_fields}", len(pairs), spans)
        _check_count(f"--lr_scale_indicators {indicators}", len(lr_scale_indicators), spans)
        if not set(lr_scale_indicators) <= {*COURSES, CONVEX}:
            raise UserError(
                f"--lr_scale_indicators {indicators}: expected 0 (linear), 1 (polynomial) or "
                "2 (convex decay) for each phase"
            )
        phases = []
        for (begin, until), (a, b), kind in zip(spans, pairs, lr_scale_indicators, strict=True):
            if kind == CONVEX:
                rate = convex_rate(lr_gamma, lr_mu, lr_alpha, begin)
                phases.append(Phase(begin, rate, rate(begin)))
            else:
                rate = _over(begin, until, COURSES[kind](a, b))
                phases.append(Phase(begin, rate, max(a, b)))
        self.phases = tuple(phases)

    def __call__(self, epoch: float) -> float:
        current = bisect_right(self.phases, epoch, key=lambda phase: phase.begin) - 1
        return self.phases[current].rate(epoch)

    @property
    def peak(self) -> float:
        return max(phase.largest for phase in self.phases)

    @property
    def turning_points(self) -> tuple[float, ...]:
        return (*(phase.begin for phase in self.phases), self.end)
