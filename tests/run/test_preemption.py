"""Asked to end, by whatever means, a run saves and ends; --resume goes on to the same bits."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import psutil
import pytest

from pcode.training.checkpoint import last_step
from pcode.utils.errors import PREEMPTED
from tests.run.runs import finished
from tests.run.started import Started
from tests.support.programs import mpirun_of_a_user

FLAGS = ("--arch", "mlp")
# A run that is not asked to end lasts longer than any test.
LONG = (*FLAGS, "--num_epochs", "100000")
KUBERNETES_GRACE_SECONDS = 30.0


def _saved(run: Started) -> int:
    """The step of the checkpoint that a run which was asked to end has left."""
    folder = run.folder()
    step = last_step(folder)
    assert step is not None
    assert f"saved after step {step}; --resume {folder} goes on" in run.output.decode()
    assert run.errors == b""
    assert not (folder / "summary.json").exists()
    return step


def _goes_on(run: Started, step: int, num_nodes: int = 2) -> None:
    """Resume until a few epochs later: it ends well, with the bits of a run without a break."""
    log = json.loads((run.folder() / "checkpoints" / f"{step}.json").read_text())
    num_epochs = str(step // log["steps_per_epoch"] + 2)
    flags = ("--n_mpi_process", str(num_nodes), "--num_epochs", num_epochs)
    again = Started(run.runs.parent, "--resume", str(run.folder()), *flags, *FLAGS)
    assert again.status() == 0, again.errors
    assert f"resumed after step {step} " in again.output.decode()
    unbroken = finished(_fresh(run.runs.parent), *FLAGS, *flags, "--backend", "sim")
    resumed = json.loads((run.folder() / "summary.json").read_text())
    assert resumed["parameters_sha256"] == unbroken["parameters_sha256"]


def _fresh(folder: Path) -> Path:
    found = folder / "unbroken"
    found.mkdir()
    return found


@pytest.mark.parametrize(
    ("backend", "number"),
    [("mpi", signal.SIGTERM), ("mpi", signal.SIGUSR1), ("gloo", signal.SIGTERM)],
)
def test_launcher(
    tmp_path: Path, started: list[Started], backend: str, number: signal.Signals
) -> None:
    started.append(Started(tmp_path, *LONG, "--backend", backend))
    started[0].await_text(b"epoch   1:")
    started[0].process.send_signal(number)
    assert started[0].status() == PREEMPTED
    step = _saved(started[0])
    if backend == "mpi" and number == signal.SIGTERM:
        _goes_on(started[0], step)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank(tmp_path: Path, started: list[Started], rank: int) -> None:
    started.append(Started(tmp_path, *LONG))
    started[0].await_text(b"epoch   1:")
    started[0].ranks()[rank].send_signal(signal.SIGTERM)
    assert started[0].status() == PREEMPTED
    _saved(started[0])


def test_one_rank_under_plain_mpirun(tmp_path: Path, started: list[Started]) -> None:
    started.append(Started(tmp_path, *LONG, before=mpirun_of_a_user(3, tmp_path)))
    started[0].await_text(b"epoch   1:")
    started[0].ranks()[2].send_signal(signal.SIGTERM)
    assert started[0].status() == PREEMPTED
    started[0].errors = b""  # mpirun's own lines
    _saved(started[0])


def test_simulated_nodes(tmp_path: Path, started: list[Started]) -> None:
    started.append(Started(tmp_path, *LONG, "--backend", "sim"))
    started[0].await_text(b"epoch   1:")
    started[0].process.send_signal(signal.SIGTERM)
    assert started[0].status() == PREEMPTED
    _saved(started[0])


def test_second_signal_ends_at_once(tmp_path: Path, started: list[Started]) -> None:
    """Two at the same moment are taken in any order."""
    started.append(Started(tmp_path, *LONG))
    started[0].await_text(b"epoch   1:")
    started[0].process.send_signal(signal.SIGUSR1)
    started[0].process.send_signal(signal.SIGTERM)
    assert started[0].status() in (128 + signal.SIGUSR1, 128 + signal.SIGTERM)


@cache
def _namespace() -> tuple[str, ...]:
    """What starts a program as the first process of a container; the test is skipped without."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    for user in ((), ("--user", "--map-root-user")):
        words = ("unshare", *user, "--pid", "--fork", "--mount-proc", "--kill-child")
        if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
            return words
    pytest.skip("this user may not make a PID namespace")


def _first_process(run: Started) -> psutil.Process:
    """The launcher, once it is the program."""
    deadline = time.monotonic() + KUBERNETES_GRACE_SECONDS
    while time.monotonic() < deadline:
        for process in psutil.Process(run.process.pid).children():
            if process.cmdline()[:1] == [sys.executable]:
                return process
    raise AssertionError("it did not start")


@pytest.mark.slow
def test_deleted_pod(tmp_path: Path, started: list[Started]) -> None:
    """SIGTERM to the first process of a container, and half a minute until SIGKILL."""
    started.append(Started(tmp_path, *LONG, before=_namespace()))
    started[0].await_text(b"epoch   1:")
    _first_process(started[0]).send_signal(signal.SIGTERM)
    assert started[0].status(KUBERNETES_GRACE_SECONDS) == PREEMPTED
    _goes_on(started[0], _saved(started[0]))


def test_pod_that_is_deleted_while_it_starts(tmp_path: Path, started: list[Started]) -> None:
    """The first process of a container gets only the signals that it has asked for."""
    started.append(Started(tmp_path, *LONG, before=_namespace()))
    first = _first_process(started[0])
    while not _asks_for(first.pid, signal.SIGTERM):
        assert first.is_running()
    first.send_signal(signal.SIGTERM)
    assert started[0].status(KUBERNETES_GRACE_SECONDS) == 143
    assert not started[0].runs.exists()


def _asks_for(process: int, number: int) -> bool:
    """Whether it has a handler for the signal (proc(5), SigCgt)."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    (mask,) = (line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (number - 1) & 1)
