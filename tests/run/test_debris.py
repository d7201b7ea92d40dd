"""Nothing stays behind: after a run, after Ctrl-C and SIGTERM, after a failing rank."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from pcode.utils.errors import DIVERGED, INTERRUPTED, PREEMPTED
from tests.run.started import Started


def test_after_a_run(tmp_path: Path, started: list[Started]) -> None:
    started.append(Started(tmp_path, "--num_epochs", "1"))
    assert started[0].status() == 0


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, PREEMPTED)],
    ids=["Ctrl-C", "SIGTERM"],
)
@pytest.mark.parametrize("backend", ["mpi", "gloo"])
def test_after_a_signal(
    tmp_path: Path, started: list[Started], backend: str, number: signal.Signals, status: int
) -> None:
    started.append(Started(tmp_path, "--num_epochs", "1000", "--backend", backend))
    started[0].await_text(b"epoch   1:")
    assert len(started[0].processes()) >= 4  # launcher, mpirun, two ranks
    started[0].process.send_signal(number)
    assert started[0].status() == status


@pytest.mark.parametrize("backend", ["mpi", "gloo"])
def test_after_a_rank_failed(tmp_path: Path, started: list[Started], backend: str) -> None:
    """The loss of some rank is no number after a few steps of such a length."""
    started.append(Started(tmp_path, "--lr", "1e30", "--backend", backend))
    assert started[0].status() == DIVERGED


def test_after_ctrl_c_of_simulated_nodes(tmp_path: Path, started: list[Started]) -> None:
    started.append(Started(tmp_path, "--num_epochs", "1000", "--backend", "sim"))
    started[0].await_text(b"epoch   1:")
    started[0].process.send_signal(signal.SIGINT)
    assert started[0].status() == INTERRUPTED


@pytest.mark.parametrize("backend", ["mpi", "gloo"])
def test_after_a_rank_was_killed(tmp_path: Path, started: list[Started], backend: str) -> None:
    started.append(Started(tmp_path, "--num_epochs", "1000", "--backend", backend))
    started[0].await_text(b"epoch   1:")
    started[0].ranks()[-1].kill()
    assert started[0].status() not in (0, INTERRUPTED, 143)
    (line,) = started[0].errors.decode().splitlines()
    assert line.startswith("run.py: error: rank ")
