"""A consensus step size for a graph, a compressor and a model, by trying some."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pcode.compression.base import Compressor
from pcode.consensus.gossip import Consensus, gossip
from pcode.errors import UserError
from pcode.layout import Layout
from pcode.seeding import torch_generator
from pcode.topology.base import Topology

# Entries of all nodes together that a trial starts from, and the most of them times rounds, which
# is what a trial's time goes with (some .2 s).
FEWEST_ENTRIES, MOST_WORK = 1 << 15, 1 << 24
# A cut vector will do whose delta is so near (relatively) to the whole one's.
DELTA_TOLERANCE = 0.1
# Rounds in which hat catches up with x, as multiples of 1 / delta, and their limits.
CATCH_UP, FEWEST_ROUNDS, MOST_ROUNDS = 4, 60, 400
SMALLEST_EXPONENT = -16
# Coarse steps beyond the best one, after which a rise is no accident.
STEPS_BEYOND = 2
# Costs so near (relatively) to the smallest count as equal; the smallest gamma of them wins.
COST_TOLERANCE = 0.01
BAR_WIDTH = 40


@dataclass(frozen=True)
class Trial:
    """A gamma, the cost that was measured for it (infinite where it diverged), the last error."""

    gamma: float
    cost: float
    error: float


@dataclass(frozen=True)
class GammaSearch:
    """The consensus step size that was found, and how.

    Attributes:
        best: gamma.
        trials: all that were tried, by falling gamma.
        num_rounds: of each trial.
        num_entries: of a node's vector in the trials.
        share: num_entries relative to the model's.
        scale: what the best trial's gamma was multiplied by, because the cut vector is easier to
            compress than the whole one; 1 where it is not.
    """

    best: float
    trials: tuple[Trial, ...]
    num_rounds: int
    num_entries: int
    share: float
    scale: float

    def lines(self) -> list[str]:
        """The curve as a table with bars for the terminal, at most 15 lines."""
        head = (
            f"gamma {self.best:.4g}: {self.num_rounds} rounds of gossip on "
            f"{self.num_entries:,} entries a node ({100 * self.share:.3g} % of the model)"
        )
        if self.scale != 1:
            head += f", {self.scale:.3g} of the best there: the rest is harder to compress"
        finite = [trial for trial in self.trials if math.isfinite(trial.cost)]
        if not finite:
            return [head]
        chosen = min(finite, key=lambda trial: abs(trial.gamma * self.scale - self.best))
        lowest = min(trial.cost for trial in finite)
        near = sorted(self.trials, key=lambda trial: abs(math.log(trial.gamma / chosen.gamma)))[:13]
        table = ["     gamma       cost"]
        for trial in sorted(near, key=lambda trial: -trial.gamma):
            mark = "*" if trial is chosen else " "
            if not math.isfinite(trial.cost):
                table.append(f"{mark} {trial.gamma:8.4g}   diverges")
                continue
            bar = "#" * max(1, round(BAR_WIDTH * lowest / trial.cost))
            table.append(f"{mark} {trial.gamma:8.4g} {trial.cost:10.4g} {bar}")
        return [head, *table]


def search_gamma(
    topology: Topology, compressor: Compressor, layout: Layout, seed: int
) -> GammaSearch:
    """The gamma with which steps of the nodes that differ leave the smallest disagreement.

    In training every step disturbs the nodes anew. What a round leaves of one disturbance is what
    `Consensus` shows from that start; the disturbances of all earlier steps, independent of each
    other, add up as the sum of the squared errors over all rounds. That sum is the cost. The start
    is what a step does: x_i = a_i + b, with a_i of the node and b common to all, all entries
    N(0, 1); the sum's rest after the last round is taken to decay as gossip without compression.
    The error after a fixed number of rounds is no measure: it is smallest for gamma near 1
    wherever that converges, though the first rounds are then far worse.

    Gammas from 1 downwards by halves, then by sixths of an octave around the best. Vectors are
    cut: whole tensors, the largest first, and of the last one a part, to the fewest entries for
    which delta is that of the model, within MOST_WORK. Where it still is not (qsgd, whose delta
    falls with the largest tensor), gamma is scaled by the ratio of both, as in Theorem 2 of arXiv
    1902.00340 for small delta.

    The same arguments give the same gamma on every machine that rounds alike, whatever the number
    of threads.

    Raises:
        UserError: the vectors diverge for every gamma.
    """
    n = topology.num_nodes
    delta = compressor.contraction(layout)
    # Unbiased forms may be no contraction at all.
    effort = CATCH_UP / max(delta, CATCH_UP / MOST_ROUNDS)
    num_rounds = max(FEWEST_ROUNDS, round(effort))
    cut = _cut_to_quality(compressor, layout, n, MOST_WORK // num_rounds)
    share = cut.num_entries / max(layout.num_entries, 1)
    if n == 1 or cut.num_entries == 0:
        return GammaSearch(1.0, (), num_rounds, cut.num_entries, share, 1.0)
    draw = torch_generator(seed, "gamma")
    start = torch.randn(n + 1, cut.num_entries, generator=draw)
    start = start[:-1] + start[-1]

    def trial(exponent: float) -> Trial:
        gamma = 2.0**exponent
        consensus = Consensus(topology, compressor, cut, start, gamma=gamma, seed=seed)
        course = gossip(consensus, num_rounds)
        if course.diverged:
            return Trial(gamma, math.inf, math.inf)
        error = course.errors[-1]
        squares = math.fsum(each**2 for each in course.errors)
        left = (1 - gamma * topology.spectral_gap) ** 2
        return Trial(gamma, squares + error**2 * left / (1 - left), error)

    trials = _coarse(trial)
    centre = min(trials, key=lambda exponent: trials[exponent].cost)
    if math.isinf(trials[centre].cost):
        raise UserError(
            f"no consensus step size down to {2.0**SMALLEST_EXPONENT:.1g} will do: with this "
            f"compressor the nodes of graph {topology.name!r} drift apart"
        )
    for sixths in (-4, -3, -2, -1, 1, 2, 3, 4):
        exponent = centre + sixths / 6
        if exponent <= 0:
            trials[exponent] = trial(exponent)
    ordered = tuple(sorted(trials.values(), key=lambda each: -each.gamma))
    good = (1 + COST_TOLERANCE) * min(each.cost for each in ordered)
    best = min(each.gamma for each in ordered if each.cost <= good)
    easier = compressor.contraction(cut)
    scale = delta / easier if 0 < delta < (1 - DELTA_TOLERANCE) * easier else 1.0
    return GammaSearch(best * scale, ordered, num_rounds, cut.num_entries, share, scale)


def _coarse(trial: Callable[[float], Trial]) -> dict[float, Trial]:
    """Trials by exponent of 2, from 0 downwards until STEPS_BEYOND the best."""
    trials: dict[float, Trial] = {}
    best = 0
    for exponent in range(0, SMALLEST_EXPONENT - 1, -1):
        trials[exponent] = trial(exponent)
        if trials[exponent].cost <= trials[best].cost:
            best = exponent
        elif exponent <= best - STEPS_BEYOND:
            break
    return trials


def _cut(layout: Layout, num_entries: int) -> Layout:
    """Whole tensors, the largest first, and a part of the last, up to so many entries."""
    sizes: list[int] = []
    for size in sorted(layout.sizes, reverse=True):
        taken = min(size, num_entries - sum(sizes))
        if taken == 0:
            break
        sizes.append(taken)
    return Layout.of_sizes(sizes)


def _cut_to_quality(compressor: Compressor, layout: Layout, n: int, most_entries: int) -> Layout:
    """The fewest entries with the layout's delta up to DELTA_TOLERANCE, within most_entries."""
    delta = compressor.contraction(layout)
    num_entries = -(-FEWEST_ENTRIES // n)
    while True:
        cut = _cut(layout, num_entries)
        near = abs(compressor.contraction(cut) - delta) <= DELTA_TOLERANCE * abs(delta)
        if near or cut.num_entries == layout.num_entries or 2 * n * num_entries > most_entries:
            return cut
        num_entries *= 2
