"""Nothing stays behind: after a run, after Ctrl-C and SIGTERM, after a failing rank."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pcode.exit_status import DIVERGED
from tests.run.runs import RUN

LIMIT_SECONDS = 120.0


class Started:
    """A run under mpirun, found again by the folder in its arguments."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.mark = str(folder / "runs")
        self.process = subprocess.Popen(
            [sys.executable, RUN, "--checkpoint", self.mark, "--arch", "resnet8", *flags],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def processes(self) -> list[psutil.Process]:
        """Launcher, mpirun and ranks, as far as they live."""
        return [
            process
            for process in psutil.process_iter(["cmdline", "status"])
            if self.mark in (process.info["cmdline"] or ())
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ]

    def await_text(self, text: bytes) -> None:
        """Wait until the run has printed `text`."""
        assert self.process.stdout is not None
        seen, deadline = b"", time.monotonic() + LIMIT_SECONDS
        while text not in seen:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.process.stdout], [], [], max(left, 0))
            assert ready, seen
            chunk = os.read(self.process.stdout.fileno(), 65536)
            assert chunk, seen
            seen += chunk

    def status(self) -> int:
        self.process.communicate(timeout=LIMIT_SECONDS)
        return self.process.returncode


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Started]]:
    """Runs that the test starts; whatever of them is left is ended, and a failure."""
    runs: list[Started] = []
    yield runs
    left = [process for run in runs for process in run.processes()]
    for process in left:
        process.kill()
    assert left == []


def test_after_a_run(tmp_path: Path, started: list[Started]) -> None:
    started.append(Started(tmp_path, "--num_epochs", "1"))
    assert started[0].status() == 0
    assert started[0].processes() == []


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
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
    assert started[0].processes() == []


@pytest.mark.parametrize("backend", ["mpi", "gloo"])
def test_after_a_rank_failed(tmp_path: Path, started: list[Started], backend: str) -> None:
    """The loss of some rank is no number after a few steps of such a length."""
    started.append(Started(tmp_path, "--lr", "1e30", "--backend", backend))
    assert started[0].status() == DIVERGED
    assert started[0].processes() == []


def test_after_ctrl_c_of_simulated_nodes(tmp_path: Path, started: list[Started]) -> None:
    started.append(Started(tmp_path, "--num_epochs", "1000", "--backend", "sim"))
    started[0].await_text(b"epoch   1:")
    started[0].process.send_signal(signal.SIGINT)
    assert started[0].status() == 130


@pytest.mark.parametrize("backend", ["mpi", "gloo"])
def test_after_a_rank_was_killed(tmp_path: Path, started: list[Started], backend: str) -> None:
    started.append(Started(tmp_path, "--num_epochs", "1000", "--backend", backend))
    started[0].await_text(b"epoch   1:")
    ranks = [
        process for process in started[0].processes() if "OMPI_COMM_WORLD_RANK" in process.environ()
    ]
    ranks[-1].kill()
    assert started[0].status() not in (0, 130, 143)
    assert started[0].processes() == []
