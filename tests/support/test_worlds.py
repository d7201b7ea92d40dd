"""A world that breaks says what holds, what does not, on which rank, and what was not run."""

from __future__ import annotations

import pytest

from tests.support.worlds import started


def test_broken_world_names_what_broke_it_and_passes_nothing_that_was_not_run(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> None:
    world = started("tests.support.broken_world", 2, tmp_path_factory, pytestconfig)
    # A failure by an assertion is one of its rank, and what follows is run.
    failed = world.failures("first", "fails_on_rank_1")
    assert failed.startswith("rank 1: Traceback")
    assert "AssertionError" in failed
    assert world.failures("first", "raises_nothing").count("Failed: DID NOT RAISE") == 2
    assert world.failures("first", "holds") == world.failures("second", "holds") == ""
    # One that may have left the ranks out of step ends the world.
    first, second = world.failures("second", "waits_for_rank_1").split("\nrank 1: ", maxsplit=1)
    assert first.startswith("rank 0: Traceback")
    assert "rank 0, peer 1: no message within the timeout of 2 s" in first
    assert second.startswith("the world ended meanwhile:\nexit status 1\n")
    assert "rank 0: second, waits_for_rank_1: Traceback" in world.end
    for skipped in (("second", "fails_on_rank_1"), ("third", "holds")):
        text = world.failures(*skipped)
        for rank in (0, 1):
            assert f"rank {rank}: not run, the world ended in: second, waits_for_rank_1\n" in text
