"""The choice among combinations: every two values of two parameters are in one."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from tests.support.pairwise import cover, pairwise


@pytest.mark.parametrize(
    ("counts", "most"), [((4, 6), 24), ((4, 6, 2), 24), ((5, 2, 13), 65), ((3,) * 4, 12)]
)
def test_every_two_values_meet(counts: tuple[int, ...], most: int) -> None:
    found = cover(*counts)
    assert len(found) == len(set(found)) <= most
    for one, other in combinations(range(len(counts)), 2):
        met = {(combination[one], combination[other]) for combination in found}
        assert met == set(product(range(counts[one]), range(counts[other])))


def test_all_combinations_are_there_and_those_left_out_are_slow() -> None:
    params = pairwise([0.5, 0.9], ["a", "b"], [None, [1]])
    assert [each.values for each in params] == list(product([0.5, 0.9], ["a", "b"], [None, [1]]))
    by_default = [each.values for each in params if not each.marks]
    assert len(by_default) == 4
    assert {each[:2] for each in by_default} == set(product([0.5, 0.9], ["a", "b"]))
    assert all(mark.name == "slow" for each in params for mark in each.marks)
