"""Failures on purpose: what is read, and that each happens at its place, once."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import pytest
import torch

from pcode.communication import Communicator, Simulation
from pcode.communication.injection import (
    ACTIONS,
    CORRUPTIBLE,
    PHASES,
    VARIABLE,
    inject,
    read_faults,
)
from pcode.utils.errors import UserError

# Three steps of rank 0 and then of rank 1; a line before and after each place, the latter with the
# seconds of the sleeps that were asked for there and really came about.
PROGRAM = """
import time
from pcode.communication.base import NoCommunicator
from pcode.communication.injection import PHASES, inject
slept = []
sleep = time.sleep
def noted(seconds):
    begin = time.monotonic()
    sleep(seconds)
    slept.append(seconds if time.monotonic() - begin >= seconds else -1)
time.sleep = noted
for rank in (0, 1):
    communicator = NoCommunicator(rank, size=2)
    communicator = inject(communicator)
    for step in range(3):
        for phase in PHASES:
            slept.clear()
            print(f"to {rank} {step} {phase}", flush=True)
            communicator.fail_point(phase, step)
            print(f"past {rank} {step} {phase} {sum(slept)}", flush=True)
"""
PLACES = [(rank, step, phase) for rank in (0, 1) for step in range(3) for phase in PHASES]


@pytest.fixture(scope="module")
def programs() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """PROGRAM with one failure each, started at once: a start takes seconds."""
    texts = ("kill:1:2:exchange", "stop:0:1:save", "delay=0.3:1:*:data", "delay=0.3:0:2:meeting")
    started = {
        text: subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, VARIABLE: text, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for text in texts
    }
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


def name(place: tuple[int, int, str]) -> str:
    return " ".join(map(str, place))


def passed(output: str) -> dict[str, float]:
    """Seconds slept at each place that the program came past."""
    words = [line.split() for line in output.splitlines() if line.startswith("past")]
    return {" ".join(line[1:4]): float(line[4]) for line in words}


@pytest.mark.parametrize(
    ("action", "phase"),
    [
        *((action, phase) for action in ("stop", "kill", "delay=1.5") for phase in PHASES),
        *(("corrupt", phase) for phase in CORRUPTIBLE),
    ],
)
def test_every_action_and_phase_is_read(action: str, phase: str) -> None:
    first, second = read_faults({VARIABLE: f"{action}:3:17:{phase},{action}:0:*:{phase}"})
    assert (first.rank, first.step, first.phase) == (3, 17, phase)
    assert (second.rank, second.step, second.phase) == (0, None, phase)
    assert first.action == action.partition("=")[0]
    assert first.action in ACTIONS
    assert first.seconds == (1.5 if action.startswith("delay") else 0)


def test_without_the_variable_nothing_happens() -> None:
    assert read_faults({}) == read_faults({VARIABLE: ""}) == []


@pytest.mark.parametrize(
    "text",
    [
        *("kill", "kill:0:1", "kill:0:1:data:x", "die:0:1:data", "kill:0:1:lunch", ":::"),
        *("kill:a:1:data", "kill:0:b:data", "kill:*:1:data", "kill:0::data", "kill:0:1.5:data"),
        *("delay:0:1:data", "delay=:0:1:data", "delay=long:0:1:data", "delay=-1:0:1:data"),
        *("delay=nan:0:1:data", "delay=inf:0:1:data", "kill=2:0:1:data", "corrupt=1:0:1:data"),
        *("kill:0:1:data,", ",kill:0:1:data", "kill:0:1:data;kill:1:1:data", "KILL:0:1:data", " "),
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(UserError, match=VARIABLE) as caught:
        read_faults({VARIABLE: text})
    assert "\n" not in str(caught.value)


def test_kill(programs: dict[str, subprocess.Popen[str]]) -> None:
    process = programs["kill:1:2:exchange"]
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert output.splitlines()[-1] == "to 1 2 exchange"
    before = PLACES[: PLACES.index((1, 2, "exchange"))]
    assert list(passed(output)) == [name(place) for place in before]


def test_stop(programs: dict[str, subprocess.Popen[str]]) -> None:
    process = programs["stop:0:1:save"]
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert os.WSTOPSIG(status) == signal.SIGSTOP
    assert process.stdout is not None
    seen = ""
    while not seen.endswith("to 0 1 save\n"):
        seen += process.stdout.readline()
    process.send_signal(signal.SIGCONT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0  # not stopped again
    assert list(passed(seen + output)) == [name(place) for place in PLACES]


@pytest.mark.parametrize(
    ("text", "place"),
    [("delay=0.3:1:*:data", "1 0 data"), ("delay=0.3:0:2:meeting", "0 2 meeting")],
)
def test_delay(programs: dict[str, subprocess.Popen[str]], text: str, place: str) -> None:
    output, _ = programs[text].communicate(timeout=60)
    seconds = passed(output)
    assert list(seconds) == [name(place) for place in PLACES]
    assert {place: passing for place, passing in seconds.items() if passing} == {place: 0.3}


def test_corrupt_calls_what_corrupts() -> None:
    environ = {VARIABLE: "corrupt:2:1:forward,corrupt:0:*:save"}

    def node(communicator: Communicator) -> list[tuple[str, int]]:
        communicator = inject(communicator, environ)
        spoilt: list[tuple[str, int]] = []
        for step in (0, 1, 1, 2):
            for phase in PHASES:
                communicator.fail_point(phase, step, partial(spoilt.append, (phase, step)))
        return spoilt

    assert Simulation(3).run(node) == [[("save", 0)], [], [("forward", 1)]]


def test_corrupt_with_nothing_in_hand() -> None:
    with pytest.raises(UserError, match="nothing can be spoilt in that phase"):
        read_faults({VARIABLE: "corrupt:0:*:data"})


def test_corrupt_spoils_a_message_once() -> None:
    """Three nodes send 1 to each other; rank 1's messages of the second step are NaN."""
    faults = "corrupt:1:1:exchange"

    def node(communicator: Communicator) -> list[list[float]]:
        communicator = inject(communicator, {VARIABLE: faults})
        others = [rank for rank in range(3) if rank != communicator.rank]
        received = []
        for step in range(4):
            outgoing = {rank: torch.ones(2) for rank in others}
            incoming = {rank: torch.zeros(2) for rank in others}
            communicator.exchange(outgoing, incoming, step).wait()
            received.append([float(incoming[rank].sum()) for rank in others])
        return received

    received = Simulation(3).run(node)
    assert received[1] == [[2, 2]] * 4
    for rank, from_rank_1 in ((0, 0), (2, 1)):
        for step, values in enumerate(received[rank]):
            spoilt = [math.isnan(value) for value in values]
            assert spoilt == [step == 1 and place == from_rank_1 for place in range(2)]
