"""Exact averaging in a few rounds, for any number of nodes and any largest degree."""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import combinations, zip_longest

from pcode.topology.base import EdgeWeights, TimeVarying
from pcode.utils.errors import UserError

# The weights of a round's edges.
Round = dict[tuple[int, int], float]


class BaseGraph(TimeVarying):
    """Rounds with k neighbours at most whose product is 11'/n: the Base-(k+1) graph.

    The spectral gap, that of the period, is 1.

    Source: Takezawa et al., "Beyond exponential graph: communication-efficient topologies for
    decentralized learning via finite-time convergence", NeurIPS 2023, arXiv 2305.11420, sections 4
    and 5. Worked out from its idea, and tested by what it promises: exactness, the degree, and the
    number of rounds, 2 log_{k+1}(n) + 2 at most (Theorem 1).

    Args:
        degree: k.
    """

    spectral_gap = 1.0

    def __init__(self, num_nodes: int, degree: float = 1) -> None:
        if degree != int(degree) or degree < 1:
            raise UserError(
                f"--graph_topology base:{degree:g}: the degree is a whole number from 1 on"
            )
        super().__init__(f"base:{degree:g}", num_nodes)
        k = min(int(degree), max(1, num_nodes - 1))
        rounds = _shorter(range(num_nodes), k) or [{}]
        self.period = len(rounds)
        self._rounds = [EdgeWeights(num_nodes, each) for each in rounds]

    def degree(self, rank: int) -> int:
        return max(len(each.senders(rank)) for each in self._rounds)

    def at(self, step: int) -> EdgeWeights:
        return self._rounds[step % len(self._rounds)]


@cache
def _factors(number: int, largest: int) -> tuple[int, ...] | None:
    """Return the fewest factors up to the largest whose product it is; None: there are none."""
    if number == 1:
        return ()
    found = [
        (each, *rest)
        for each in range(2, min(number, largest) + 1)
        if number % each == 0 and (rest := _factors(number // each, largest)) is not None
    ]
    return min(found, key=len, default=None)


def _cliques(nodes: Sequence[int], factors: Iterable[int]) -> list[Round]:
    """Average along each of several dimensions, one a round."""
    rounds, stride = [], 1
    for size in factors:
        firsts = [i for i in range(len(nodes)) if i // stride % size == 0]
        members = [[nodes[i + stride * each] for each in range(size)] for i in firsts]
        rounds.append({edge: 1 / size for group in members for edge in combinations(group, 2)})
        stride *= size
    return rounds


def _together(*sequences: list[Round]) -> list[Round]:
    """Return rounds of sets of nodes that have none in common, side by side."""
    return [
        {edge: weight for each in rounds for edge, weight in each.items()}
        for rounds in zip_longest(*sequences, fillvalue={})
    ]


def _simple(nodes: Sequence[int], k: int) -> list[Round]:
    """Return the rounds of the simple form.

    By the digits of n to the base k + 1 the nodes are groups of a powers of it each, the largest
    first. Groups average. Then group by group a node of each of its powers mixes with a node of
    those that follow, such that every power, and what follows, has the mean of both. Powers average
    what they have by themselves.
    """
    if (factors := _factors(len(nodes), k + 1)) is not None:
        return _cliques(nodes, factors)
    parts: list[tuple[Sequence[int], int, int]] = []
    power, left, end = 1, len(nodes), len(nodes)
    while left:
        left, digit = divmod(left, k + 1)
        if digit:
            parts.insert(0, (nodes[end - digit * power : end], digit, power))
            end -= digit * power
        power *= k + 1
    sequences = [_cliques(group, _factors(len(group), k + 1) or ()) for group, _, _ in parts]
    begin = len(sequences[0])
    for number, (group, digit, power) in enumerate(parts[:-1]):
        rest = [node for later, _, _ in parts[number + 1 :] for node in later]
        weight = len(group) / (digit * (len(group) + len(rest)))
        powers = [group[power * each : power * (each + 1)] for each in range(digit)]
        mixed = {(node, each[i]): weight for i, node in enumerate(rest) for each in powers}
        alone = [_cliques(each, _factors(power, k + 1) or ()) for each in powers]
        sequences.append([{}] * (begin + number) + [mixed, *_together(*alone)])
    return _together(*sequences)


def _shorter(nodes: Sequence[int], k: int) -> list[Round]:
    """Return the simple form's rounds, or those of parts of equal size that are averaged last."""
    number, others = 1, len(nodes)
    for prime in range(2, k + 2):
        while others % prime == 0:
            number, others = number * prime, others // prime
    parts = [nodes[others * each : others * (each + 1)] for each in range(number)]
    factors = _factors(number, k + 1) or ()
    in_parts = _together(*(_simple(part, k) for part in parts))
    across = _together(*(_cliques(each, factors) for each in zip(*parts, strict=True)))
    return min(_simple(nodes, k), in_parts + across, key=len)
