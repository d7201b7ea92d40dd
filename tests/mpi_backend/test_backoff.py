"""Pauses between polls, at times that are made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcode.mpi_backend.backoff import BACKGROUND, MUCH_SECONDS, QUIET, WAITING, Backoff, Waiting

SECONDS = st.floats(0, 100)
FASTEST = 1e-6


@pytest.mark.parametrize("backoff", [WAITING, BACKGROUND, QUIET])
@given(idle=SECONDS, previous=SECONDS, moved_much=st.booleans())
def test_a_pause_is_a_share_of_the_idle_time_within_limits(
    backoff: Backoff, idle: float, previous: float, moved_much: bool
) -> None:
    previous = max(previous, backoff.shortest)
    pause = backoff.pause(idle, previous, moved_much)
    assert backoff.shortest <= pause <= backoff.longest
    assert pause <= max(backoff.share * idle, backoff.shortest)
    assert pause <= max(previous / 2, backoff.shortest) or not moved_much
    assert pause <= 2 * previous


def test_pauses_grow_with_the_idle_time_and_shrink_while_much_moves() -> None:
    backoff = Backoff(shortest=1.0, longest=16.0, share=0.5)
    assert [backoff.pause(idle) for idle in (0.0, 4.0, 10.0, 1000.0)] == [1.0, 2.0, 5.0, 16.0]
    assert backoff.pause(1000.0, previous=3.0) == 6.0
    assert backoff.pause(1000.0, previous=3.0, moved_much=True) == 1.5
    assert backoff.pause(1000.0, previous=1.5, moved_much=True) == 1.0


def pauses(polls: list[tuple[float, float]], completed: float = 0.0) -> list[float | None]:
    """Those of a thread that begins at 0, after polls that begin and take so many seconds."""
    waiting = Waiting(0.0, FASTEST)
    return [waiting.pause(begin, begin + seconds, completed) for begin, seconds in polls]


def test_a_thread_polls_at_full_speed_before_it_sleeps_longer_and_longer() -> None:
    polls = [(20e-6, FASTEST), (90e-6, FASTEST), (200e-6, FASTEST), (2e-3, FASTEST), (1.0, FASTEST)]
    assert pauses(polls) == pytest.approx([0.0, 0.0, 20.1e-6, 200.1e-6, 1e-3])


def test_a_slow_poll_has_moved_data_and_is_followed_by_others_at_full_speed() -> None:
    assert pauses([(90e-6, 20e-6), (180e-6, FASTEST)]) == [0.0, 0.0]
    # Not where it follows a sleep: the next one says.
    assert pauses([(200e-6, FASTEST), (300e-6, 20e-6), (350e-6, FASTEST)])[1:] == pytest.approx(
        [None, 35.1e-6]
    )
    assert pauses([(200e-6, FASTEST), (300e-6, 2 * MUCH_SECONDS), (750e-6, FASTEST)])[1:] == [
        None,
        0.0,
    ]


def test_a_thread_that_has_waited_long_for_a_message_sleeps_before_the_next_one_too() -> None:
    assert pauses([(5e-3, FASTEST)], completed=5e-3) == pytest.approx([500e-6])
    assert pauses([(0.5e-3, FASTEST)], completed=0.5e-3) == [0.0]
