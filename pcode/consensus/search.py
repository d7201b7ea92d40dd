"""A consensus step size for a graph, a compressor and a model, by trying some."""

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from pcode.compression.base import Compressor
from pcode.consensus.simulate import DIVERGED_ERROR, ROUNDING_ERROR, Consensus, gossip
from pcode.optim import ParallelChoco
from pcode.optim.compressed import CompressedOptimizer
from pcode.topology.base import Topology
from pcode.utils.errors import NotFiniteError, UserError
from pcode.utils.layout import Layout
from pcode.utils.seeding import torch_generator

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
# What a step does to a model, relative to its entries, for gossip that does not converge. With this
# one the search finds for sign on a ring of 8 the gamma .01 that was tuned for DeepSqueeze.
DISTURBANCE = 0.002
FEWEST_DISTURBED_ENTRIES = 1 << 14
# The replay of the winner. Sign's residuals become unequal over thousands of rounds, and the more
# so the longer the tensor; then a gamma may be too large that was not at first. On rings and tori
# of 16 and 1,000 entries that shows after some 4,000 rounds.
REPLAY_ROUNDS, REPLAY_PARTS, REPLAY_RECORD = 8000, 4, 50
# Larger gammas show it sooner.
REPLAY_MARGIN = 2 ** (1 / 6)
REPLAY_ENTRIES, REPLAY_ENTRIES_OF_ALL = 1000, 1 << 14
# Entries of all nodes times rounds at most; a message takes its time however few it has.
REPLAY_WORK, REPLAY_MESSAGE = REPLAY_ROUNDS * REPLAY_ENTRIES_OF_ALL, 500
# Errors of a part, in the geometric mean, by those of the best earlier part: more is growth.
GROWTH = 1.5
BAR_WIDTH = 40


@dataclass(frozen=True)
class GammaSearch:
    """The consensus step size that was found, and how.

    Attributes:
        best: gamma.
        trials: each gamma that was tried, falling, and its cost: infinite where it diverged.
        num_rounds: of each trial.
        num_entries: of a node's vector in the trials; `share`, relative to the model's.
        scale: what the best trial's gamma was multiplied by, because the cut vector is easier to
            compress than the whole one; 1 where it is not.
        grown: the gammas that were cheaper, but with which errors grow in the replay.
    """

    best: float
    trials: Mapping[float, float]
    num_rounds: int
    num_entries: int
    share: float
    scale: float
    grown: tuple[float, ...] = ()

    def lines(self) -> list[str]:
        """Return the curve as a table with bars for the terminal, at most 15 lines."""
        if not self.trials:
            return [f"gamma {self.best:.4g}: not searched, as there is nothing to agree on"]
        head = (
            f"gamma {self.best:.4g}: {self.num_rounds} rounds of gossip on "
            f"{self.num_entries:,} entries a node ({100 * self.share:.3g} % of the model)"
        )
        if self.scale != 1:
            head += f", {self.scale:.3g} of the best there: the rest is harder to compress"
        if self.grown:
            head += f"; stepped down from {self.grown[0]:.4g}, with which errors grow again"
        finite = [gamma for gamma, cost in self.trials.items() if math.isfinite(cost)]
        chosen = min(finite, key=lambda gamma: abs(gamma * self.scale - self.best))
        lowest = min(self.trials.values())
        near = sorted(self.trials, key=lambda gamma: abs(math.log(gamma / chosen)))[:13]
        table = ["     gamma       cost"]
        for gamma in sorted(near, reverse=True):
            mark, cost = "*" if gamma == chosen else " ", self.trials[gamma]
            if not math.isfinite(cost):
                table.append(f"{mark} {gamma:8.4g}   diverges")
                continue
            bar = "#" * max(1, round(BAR_WIDTH * lowest / cost))
            bar += " (errors grow later)" if gamma * self.scale in self.grown else ""
            table.append(f"{mark} {gamma:8.4g} {cost:10.4g} {bar}")
        return [head, *table]


def search_gamma(
    topology: Topology,
    compressor: Compressor,
    layout: Layout,
    seed: int,
    optimizer: type[CompressedOptimizer] = ParallelChoco,
) -> GammaSearch:
    """Return the gamma with which steps of the nodes that differ leave the smallest disagreement.

    In training every step disturbs the nodes anew. What a round leaves of one disturbance is what
    `Consensus` shows from that start; the disturbances of all earlier steps, independent of each
    other, add up as the sum of the squared errors over all rounds. That sum is the cost. The start
    is what a step does: x_i = a_i + b, with a_i of the node and b common to all, all entries
    N(0, 1); the sum's rest after the last round is taken to decay as gossip without compression.
    The error after a fixed number of rounds is smallest for gamma near 1 wherever that converges,
    though the first rounds are then far worse.

    Gossip that does not converge has no such sum. It starts with equal nodes, every round disturbs
    them by DISTURBANCE N(0, 1), and the cost is the mean squared disagreement of the second half,
    with what earlier disturbances would have left there in gossip without compression.

    Gammas from 1 downwards by halves, then by sixths of an octave around the best. Vectors are
    cut: whole tensors, the largest first, and of the last one a part, to the fewest entries for
    which delta is that of the model, within MOST_WORK. Where it still is not (qsgd, whose delta
    falls with the largest tensor), gamma is scaled by the ratio of both, as in Theorem 2 of arXiv
    1902.00340 for small delta. The cheapest gamma is replayed for REPLAY_ROUNDS (above 32
    nodes within REPLAY_WORK) on fewer entries, REPLAY_MARGIN times as large; while the error grows
    again, the next smaller one that was tried takes its place.

    The same arguments give the same gamma on every machine that rounds alike, whatever the number
    of threads.

    Raises:
        UserError: the vectors diverge for every gamma.
    """
    n = topology.num_nodes
    if n == 1 or layout.num_entries == 0:
        return GammaSearch(1.0, {}, 0, 0, 0.0, 1.0)
    delta = compressor.contraction(layout)
    # Unbiased forms may be no contraction at all.
    effort = CATCH_UP / max(delta, CATCH_UP / MOST_ROUNDS)
    num_rounds = max(FEWEST_ROUNDS, round(effort)) if optimizer.converges else MOST_ROUNDS
    fewest = FEWEST_ENTRIES if optimizer.converges else FEWEST_DISTURBED_ENTRIES
    cut = _cut_to_quality(compressor, layout, -(-fewest // n), MOST_WORK // num_rounds // n)

    play = partial(Consensus, optimizer, topology, compressor, seed=seed)

    def cost(gamma: float) -> float:
        start = _start(topology, cut, seed, apart=float(optimizer.converges))
        played = play(cut, start, gamma=gamma)
        if optimizer.converges:
            return _converging(played, gamma, topology.spectral_gap, num_rounds)
        return _disturbed(played, gamma, topology, num_rounds, seed)

    trials = _costs(cost)
    easier = compressor.contraction(cut)
    scale = delta / easier if 0 < delta < (1 - DELTA_TOLERANCE) * easier else 1.0
    short = _cut(layout, max(1, min(REPLAY_ENTRIES, REPLAY_ENTRIES_OF_ALL // n)))
    work = n * max(short.num_entries, REPLAY_MESSAGE)
    replay_rounds = min(REPLAY_ROUNDS, REPLAY_WORK // work)
    start = _start(topology, short, seed, apart=1.0)
    grown: list[float] = []
    for best in (gamma * scale for gamma in _candidates(trials)):
        replay = play(short, start, gamma=min(1.0, REPLAY_MARGIN * best))
        if not _grows(replay, replay_rounds):
            sizes = cut.num_entries, cut.num_entries / layout.num_entries
            return GammaSearch(best, trials, num_rounds, *sizes, scale, tuple(grown))
        grown.append(best)
    raise UserError(
        f"no consensus step size down to {min(trials):.1g} will do: with this compressor "
        f"the nodes of graph {topology.name!r} drift apart"
    )


def _start(topology: Topology, layout: Layout, seed: int, apart: float) -> torch.Tensor:
    """n x d: x_i = apart * a_i + b."""
    draw = torch_generator(seed, "gamma")
    vectors = torch.randn(topology.num_nodes + 1, layout.num_entries, generator=draw)
    return apart * vectors[:-1] + vectors[-1]


def _converging(consensus: Consensus, gamma: float, gap: float, num_rounds: int) -> float:
    """Return the sum of the squared errors of one disturbance."""
    course = gossip(consensus, num_rounds)
    if course.diverged:
        return math.inf
    squares = math.fsum(each**2 for each in course.errors)
    left = (1 - gamma * gap) ** 2
    return squares + course.errors[-1] ** 2 * left / (1 - left)


def _disturbed(
    consensus: Consensus, gamma: float, topology: Topology, num_rounds: int, seed: int
) -> float:
    """Return the mean squared disagreement of an entry under disturbances without beginning."""
    draw = torch_generator(seed, "disturbances")
    mean = consensus.x.mean(dim=0)
    squares = []
    for _ in range(num_rounds):
        steps = torch.randn(consensus.x.shape, generator=draw)
        consensus.x.add_(steps - steps.mean(dim=0), alpha=DISTURBANCE)
        try:
            consensus.round()
        except NotFiniteError:
            return math.inf
        squares.append(float((consensus.x - mean).square().mean()))
        if not squares[-1] <= DIVERGED_ERROR**2:
            return math.inf
    left = (1 - gamma * (1 - np.linalg.eigvalsh(topology.matrix)[:-1])) ** 2
    earlier = left ** (0.75 * num_rounds) / (1 - left)
    rest = DISTURBANCE**2 * float(earlier.sum()) / topology.num_nodes
    return statistics.fmean(squares[num_rounds // 2 :]) + rest


def _costs(cost: Callable[[float], float]) -> dict[float, float]:
    """Costs by falling gamma: of halves until STEPS_BEYOND the best, and of what is around that."""
    costs: dict[float, float] = {}  # by exponent of 2
    best = 0
    for exponent in range(0, SMALLEST_EXPONENT - 1, -1):
        costs[exponent] = cost(2.0**exponent)
        if costs[exponent] <= costs[best]:
            best = exponent
        elif exponent <= best - STEPS_BEYOND:
            break
    centre = min(costs, key=lambda exponent: costs[exponent])
    for sixths in (-4, -3, -2, -1, 1, 2, 3, 4) if math.isfinite(costs[centre]) else ():
        if (near := centre + sixths / 6) <= 0:
            costs[near] = cost(2.0**near)
    return {2.0**exponent: costs[exponent] for exponent in sorted(costs, reverse=True)}


def _candidates(trials: Mapping[float, float]) -> list[float]:
    """Return the smallest of the gammas that cost next to the least, and the tried ones below."""
    good = (1 + COST_TOLERANCE) * min(trials.values())
    finite = [gamma for gamma, cost in trials.items() if math.isfinite(cost)]
    best = min((gamma for gamma in finite if trials[gamma] <= good), default=0.0)
    return [gamma for gamma in finite if gamma <= best]


def _grows(consensus: Consensus, num_rounds: int) -> bool:
    """Return whether the error becomes larger than it was, or never smaller than at first."""
    levels: list[float] = []
    for _ in range(REPLAY_PARTS):
        course = gossip(consensus, -(-num_rounds // REPLAY_PARTS), every=REPLAY_RECORD)
        if course.diverged:
            return True
        errors = [max(error, ROUNDING_ERROR) for error in course.errors[1:]]
        levels.append(statistics.fmean(map(math.log, errors)))
        if levels[-1] > min(levels) + math.log(GROWTH):
            return True
    return levels[-1] >= 0


def _cut(layout: Layout, num_entries: int) -> Layout:
    """Whole tensors, the largest first, and a part of the last, up to so many entries."""
    sizes: list[int] = []
    for size in sorted(layout.sizes, reverse=True):
        if taken := min(size, num_entries - sum(sizes)):
            sizes.append(taken)
    return Layout.of_sizes(sizes)


def _cut_to_quality(compressor: Compressor, layout: Layout, fewest: int, most: int) -> Layout:
    """Return the fewest entries with the layout's delta up to DELTA_TOLERANCE, at most `most`."""
    delta = compressor.contraction(layout)
    while True:
        cut = _cut(layout, fewest)
        near = abs(compressor.contraction(cut) - delta) <= DELTA_TOLERANCE * abs(delta)
        if near or cut.num_entries == layout.num_entries or 2 * fewest > most:
            return cut
        fewest *= 2
