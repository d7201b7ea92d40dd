"""Losses of a node whose GPU is a stub: where the host waits for it."""

from __future__ import annotations

import pytest
import torch

from pcode.communication.base import NoCommunicator
from pcode.training.losses import STEPS_AHEAD, Losses
from pcode.utils.errors import CommunicationError

FORWARD, BACKWARD, EXCHANGE = 500, 1000, 1


class Stream:
    """What is launched, in order, and how far the GPU can come."""

    def __init__(self) -> None:
        self.num_launched = 0
        self.stuck_behind: int | None = None

    def launch(self, count: int) -> None:
        self.num_launched += count

    def record_event(self) -> Event:
        event = Event()
        event.record(self)
        return event


class Event:
    """A place in a stream."""

    def record(self, stream: Stream) -> None:
        self.stream, self.place = stream, stream.num_launched

    def query(self) -> bool:
        limit = self.stream.stuck_behind
        return limit is None or self.place <= limit


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    made = Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: made)
    return made


def step_of(losses: Losses, stream: Stream, step: int) -> list[float]:
    """A step whose exchange comes last, as a node queues it."""
    stream.launch(FORWARD)
    known = losses.add(torch.tensor(float(step)), step)
    stream.launch(BACKWARD)
    stream.launch(EXCHANGE)
    losses.end_step()
    return known


def test_behind_an_exchange_that_waits_lies_a_forward_pass(stream: Stream) -> None:
    """The driver takes some 1,000 launches, and blocks in the next one: nobody would be named."""
    losses = Losses(torch.device("cuda"), NoCommunicator(), 0.05, STEPS_AHEAD)
    assert [step_of(losses, stream, step) for step in range(3)] == [[], [0.0], [1.0]]
    stream.stuck_behind = stream.num_launched - EXCHANGE
    with pytest.raises(CommunicationError, match="step 2: the GPU has not come to the end of"):
        step_of(losses, stream, 3)
    assert stream.num_launched - stream.stuck_behind == EXCHANGE + FORWARD


def test_what_is_not_read_ahead_is_known_in_its_step(stream: Stream) -> None:
    losses = Losses(torch.device("cuda"), NoCommunicator(), 0.05, 0)
    assert [step_of(losses, stream, step) for step in range(3)] == [[0.0], [1.0], [2.0]]
