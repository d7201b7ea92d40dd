"""The contract of backends over mpi and gloo, on 2, 3 and 4 ranks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from tests.mpi_backend.world import BACKENDS, expected
from tests.support.worlds import World, started


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Callable[[int], World]:
    """The world of so many ranks."""

    @cache
    def of(num_ranks: int) -> World:
        return started("tests.mpi_backend.world", num_ranks, tmp_path_factory, pytestconfig)

    return of


@pytest.mark.parametrize(
    ("num_ranks", "backend", "check"),
    [(num_ranks, *names) for num_ranks in BACKENDS for names in expected(num_ranks)],
)
def test_contract(world: Callable[[int], World], num_ranks: int, backend: str, check: str) -> None:
    failures = world(num_ranks).failures(backend, check)
    assert not failures, failures


@pytest.mark.parametrize("num_ranks", BACKENDS)
def test_ranks_join_and_part_with_every_backend_and_end_well(
    world: Callable[[int], World], num_ranks: int
) -> None:
    assert not world(num_ranks).end, world(num_ranks).end
