"""What the health check says of a run; what it says of a worker the smoke tests' pods show."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pcode.utils.errors import PREEMPTED
from tests.run.started import Started, started
from tests.support.programs import ROOT

__all__ = ["started"]

HEALTH = ROOT / "environments/docker/health.py"
# As in a container, its processes are all that there are.
NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
LONG = ("--arch", "mlp", "--num_epochs", "100000", "--time_limit_seconds", "1000")


def health(run: Started) -> tuple[int, str]:
    """Exit status, and what is wrong."""
    (first,) = psutil.Process(run.process.pid).children()
    done = subprocess.run(
        ["nsenter", "-t", str(first.pid), "--pid", "--mount", sys.executable, "-I", str(HEALTH)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr


pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path, started: list[Started]) -> Started:
    """One that has trained for an epoch, in a namespace of its own."""
    tried = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no namespace of processes: {tried.stderr.strip()}")
    started.append(Started(tmp_path, *LONG, before=NAMESPACE))
    started[0].await_text(b"epoch   1:")
    return started[0]


def end(run: Started) -> None:
    (first,) = psutil.Process(run.process.pid).children()
    first.send_signal(signal.SIGTERM)
    assert run.status() == PREEMPTED


def test_a_run_whose_ranks_run_is_well(run: Started) -> None:
    assert health(run) == (0, "")
    end(run)


def test_a_stopped_rank_is_told(run: Started) -> None:
    rank = run.ranks()[1]
    rank.send_signal(signal.SIGSTOP)
    assert health(run) == (1, "rank 1 does not run\n")
    rank.send_signal(signal.SIGCONT)
    assert health(run) == (0, "")
    end(run)


def test_a_lost_rank_is_told(tmp_path: Path, run: Started) -> None:
    """mpirun, which would notice, is stopped meanwhile."""
    mpirun = next(p for p in run.processes() if p.name() in ("mpirun", "prterun"))
    mpirun.send_signal(signal.SIGSTOP)
    lost = run.ranks()[0]
    lost.kill()
    deadline = time.monotonic() + 60
    while lost.is_running() and lost.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)  # no event tells: its parent is stopped
    assert health(run) == (1, "1 of 2 ranks are left\n")
    mpirun.send_signal(signal.SIGCONT)
    assert run.status() != 0
