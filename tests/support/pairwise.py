"""Few of all combinations of parameters by default, with every two values together in one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

import pytest
from _pytest.mark import ParameterSet

Combination = tuple[int, ...]


def cover(*counts: int) -> list[Combination]:
    """Combinations, as an index a parameter, in which all pairs of two parameters' values are.

    Greedy: the first of those with most of the pairs that are left, again and again.
    """

    def pairs(combination: Combination) -> set[tuple[tuple[int, int], ...]]:
        return set(combinations(enumerate(combination), 2))

    every = list(product(*map(range, counts)))
    left = set().union(*map(pairs, every))
    chosen = []
    while left:
        chosen.append(max(every, key=lambda combination: len(pairs(combination) & left)))
        left -= pairs(chosen[-1])
    return chosen


def pairwise(*values: Sequence[Any]) -> list[ParameterSet]:
    """All combinations for `parametrize`; slow are those that the cover has no need of."""
    chosen = set(cover(*map(len, values)))
    return [
        pytest.param(
            *(each[index] for each, index in zip(values, combination, strict=True)),
            marks=[] if combination in chosen else [pytest.mark.slow],
        )
        for combination in product(*(range(len(each)) for each in values))
    ]
