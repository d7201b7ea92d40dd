"""What a run lacks or loses from outside: one true line says it, and nothing is left."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pcode.utils.errors import USER_ERROR
from tests.run.runs import RUN, draw_images, run
from tests.run.started import Started
from tests.support.programs import ROOT, run_program

SMALL = ("--arch", "mlp", "--mlp_hidden_size", "16", "--n_mpi_process", "2", "--num_epochs", "1")
LONG = (*SMALL, "--num_epochs", "1000")
SHARED_MEMORY = Path("/dev/shm")


def test_few_open_files(tmp_path: Path) -> None:
    done = run(tmp_path, *SMALL, before=["prlimit", "--nofile=32:32"])
    assert done.returncode == USER_ERROR
    (line,) = done.stderr.splitlines()
    assert line.startswith("run.py: error: the limit of open files is 32 (ulimit -n), mpirun needs")
    assert not list(tmp_path.iterdir())


def test_little_memory(tmp_path: Path) -> None:
    before = ["prlimit", "--as=1000000000"]
    done = run(tmp_path, *SMALL, before=before, python=sys.executable)
    assert done.returncode == USER_ERROR
    (line,) = done.stderr.splitlines()
    assert line.startswith("run.py: error: cannot load its modules: ")
    assert line.endswith("; the limit of memory is 976562 kB (ulimit -v)")


@pytest.mark.slow
def test_a_full_dev_shm(tmp_path: Path) -> None:
    """mpirun and the ranks then keep their files elsewhere."""
    filled = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && head -c 64k /dev/zero > /dev/shm/f; "$@"'
    before = ["unshare", "-m", "sh", "-c", filled, "sh"]
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    done = run(tmp_path, *SMALL, "--backend", "mpi", before=before, python=sys.executable)
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize(
    "backend",
    ["sim", *(pytest.param(each, marks=pytest.mark.slow) for each in ("mpi", "gloo"))],
)
def test_a_folder_that_is_gone_is_not_whole(
    tmp_path: Path, started: list[Started], backend: str
) -> None:
    started.append(Started(tmp_path, *LONG, "--backend", backend))
    started[0].await_text(b"epoch   1:")
    started[0].folder().rename(tmp_path / "elsewhere")
    assert started[0].status() == 1
    (line,) = [line for line in started[0].errors.decode().splitlines() if " warning: " not in line]
    assert re.match(r"run\.py: error: rank \d, step \d+: .*; the run's folder is gone$", line)


@pytest.mark.slow
@pytest.mark.parametrize("on_failure", ["continue", "stop"])
def test_a_stopped_rank_ends_the_run(
    tmp_path: Path, started: list[Started], on_failure: str
) -> None:
    """It lives, so that the others cannot go on without it: it might come back, and write."""
    flags = (*LONG, "--n_mpi_process", "3", "--backend", "mpi", "--on_failure", on_failure)
    limit = ("--time_limit_seconds", "4")
    started.append(Started(tmp_path, *flags, *limit, PCODE_INJECT="stop:1:7:exchange"))
    assert started[0].status() == 1
    ended = "run.py: mpirun did not end within 10 s; killing it and its ranks"
    lines = [line for line in started[0].errors.decode().splitlines() if line != ended]
    named = r"run\.py: error: rank [02], .*\bpeer 1\b.*: no message within the"
    assert lines
    assert all(re.match(named, line) for line in lines), lines  # of one neighbour, or of both


def loaders(run_: Started) -> list[psutil.Process]:
    """The workers that have been forked from the servers of the run's ranks."""
    servers = [
        child
        for rank in run_.ranks()
        for child in rank.children()
        if any("multiprocessing.forkserver" in word for word in child.cmdline())
    ]
    return [worker for server in servers for worker in server.children()]


@pytest.mark.slow
def test_a_killed_loader_process(tmp_path: Path, started: list[Started]) -> None:
    draw_images(tmp_path, 40)
    before = set(os.listdir(SHARED_MEMORY))
    data = ("--data", "imagenet", "--data_dir", str(tmp_path / "data"), "--batch_size", "4")
    model = ("--arch", "logistic_regression", "--lr", "1e-5")
    started.append(Started(tmp_path, *LONG, *data, *model, python=sys.executable))
    started[0].await_text(b"epoch   1:")
    while not (found := loaders(started[0])):
        assert started[0].process.poll() is None
    found[0].kill()
    assert started[0].status() == 1
    (line,) = [line for line in started[0].errors.decode().splitlines() if " warning: " not in line]
    assert re.match(
        rf"run\.py: error: rank [01], step \d+: --num_workers 2: the loader process {found[0].pid} "
        r"was ended by signal 9 \(Killed\); loader processes need memory",
        line,
    )
    left = set(os.listdir(SHARED_MEMORY)) - before
    assert [name for name in left if name.startswith(("sem.", "psm_", "torch_"))] == []


STARVED = """
import os, resource
from pcode.datasets.workers import made_by_workers, workers_context
from pcode.utils.errors import LoaderError
workers_context()
ready = made_by_workers(abs, [1, 2, 3], 1)
next(ready)
used = max(map(int, os.listdir("/proc/self/fd")))
resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, used + 1))
try:
    list(made_by_workers(abs, [1], 1))
except LoaderError as error:
    print(error.reason)
print(list(ready))
"""


def test_no_file_is_left_for_a_loader_process() -> None:
    done = run_program([sys.executable, "-c", STARVED], ROOT, 60, {})
    assert done.stderr == ""
    reason, rest = done.stdout.splitlines()
    assert reason == "a loader process cannot be started: [Errno 24] Too many open files"
    assert rest == "[2, 3]"


FAILURES = {
    "thread": "thread = threading.Thread(target=fail); thread.start(); thread.join()",
    "exit": "atexit.register(fail)",
    "deleted": "type('Sick', (), {'__del__': fail})()",
    "deleted at the end": "import run; run.sick = type('Sick', (), {'__del__': fail})()",
    "none": "pass",
}


@pytest.mark.parametrize("failure", FAILURES)
def test_no_traceback_goes_with_status_0(failure: str) -> None:
    program = (
        "import atexit, sys, threading\nfrom run import Failures\nFailures()\n"
        f"def fail(*_): raise ValueError('sick')\n{FAILURES[failure]}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(RUN).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    is_bad = failure != "none"
    assert ("ValueError: sick" in done.stderr) is is_bad
    assert done.returncode == is_bad
