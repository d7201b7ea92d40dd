"""GPU ids and CPU threads of nodes."""

from __future__ import annotations

import os

import pytest

from pcode.errors import UserError
from pcode.launch.devices import num_usable_cores, repeat_world, threads_per_node, world_notice


def test_world_is_repeated_cyclically_with_a_notice() -> None:
    assert repeat_world((0, 1, 2), 7) == (0, 1, 2, 0, 1, 2, 0)
    assert world_notice((0, 1, 2), 7) == "--world 0,1,2: 3 ids for 7 GPUs; repeated cyclically"


def test_world_of_the_right_length_is_kept_without_a_notice() -> None:
    assert repeat_world((3, 1), 2) == (3, 1)
    assert world_notice((3, 1), 2) is None


def test_world_that_is_too_long_is_cut_with_a_notice() -> None:
    assert repeat_world((3, 1, 2), 2) == (3, 1)
    assert world_notice((3, 1, 2), 2) == "--world 3,1,2: 3 ids for 2 GPUs; the first 2 are used"


def test_threads_come_from_the_flag_then_the_variable_then_the_cores() -> None:
    assert threads_per_node(3, 2, {"OMP_NUM_THREADS": "5"}) == 3
    assert threads_per_node(None, 2, {"OMP_NUM_THREADS": "5"}) == 5
    assert threads_per_node(None, 2, {"OMP_NUM_THREADS": "5,2"}) == 5
    assert threads_per_node(None, 1, {}) == num_usable_cores()
    assert threads_per_node(None, 10 * num_usable_cores(), {}) == 1


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "1.5", ",2"])
def test_bad_omp_num_threads_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="OMP_NUM_THREADS"):
        threads_per_node(None, 2, {"OMP_NUM_THREADS": text})


def test_cores_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 5, 6})
    assert threads_per_node(None, 1, {}) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert threads_per_node(None, 2, {}) == 4
