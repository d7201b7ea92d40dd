"""The contract of communicators over mpi and gloo, on 2, 3 and 4 ranks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from tests.communication.world import COMMUNICATORS, expected
from tests.support.worlds import World, started

SIZES = sorted(COMMUNICATORS)


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Callable[[int], World]:
    """The world of so many ranks."""

    @cache
    def of(num_ranks: int) -> World:
        return started("tests.communication.world", num_ranks, tmp_path_factory, pytestconfig)

    return of


@pytest.mark.parametrize(
    ("num_ranks", "case", "check"),
    [(num_ranks, *names) for num_ranks in SIZES for names in expected(num_ranks)],
)
def test_contract(world: Callable[[int], World], num_ranks: int, case: str, check: str) -> None:
    failures = world(num_ranks).failures(case, check)
    assert not failures, failures


@pytest.mark.parametrize("num_ranks", SIZES)
def test_ranks_join_and_part_in_every_case_and_end_well(
    world: Callable[[int], World], num_ranks: int
) -> None:
    assert not world(num_ranks).end, world(num_ranks).end
