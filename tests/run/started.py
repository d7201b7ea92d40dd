"""A run under way: started, watched, given signals, and cleaned up after (Linux)."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.run.runs import RUN
from tests.support.programs import quick_python

LIMIT_SECONDS = 120.0


class Started:
    """A run, found again by the folder in its arguments.

    Args:
        folder: in it the run gets its own.
        before: what starts the interpreter, if not the test itself.
        python: the interpreter; with `sys.executable`, everything is started as a user starts it.
        variables: added to the environment.
    """

    def __init__(
        self,
        folder: Path,
        *flags: str,
        before: Sequence[str] = (),
        python: str | None = None,
        **variables: str,
    ) -> None:
        self.runs = folder / "runs"
        self.output = b""
        self.errors = b""
        self.process = subprocess.Popen(
            [
                *(*before, python or quick_python(), RUN, "--checkpoint", str(self.runs)),
                *("--arch", "resnet8", *flags),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def processes(self) -> list[psutil.Process]:
        """Launcher, mpirun and ranks, as far as they live."""
        return [
            process
            for process in psutil.process_iter(["cmdline", "status"])
            if str(self.runs) in (process.info["cmdline"] or ())
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ]

    def ranks(self) -> list[psutil.Process]:
        """The nodes' processes, by rank."""
        found = {
            int(process.environ()["OMPI_COMM_WORLD_RANK"]): process
            for process in self.processes()
            if "OMPI_COMM_WORLD_RANK" in process.environ()
        }
        return [found[rank] for rank in sorted(found)]

    def await_text(self, text: bytes) -> None:
        """Wait until the run has printed `text`."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + LIMIT_SECONDS
        while text not in self.output:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.process.stdout], [], [], max(left, 0))
            assert ready, self.output
            chunk = os.read(self.process.stdout.fileno(), 65536)
            assert chunk, self.output + self.process.communicate()[1]
            self.output += chunk

    def read_on(self) -> bytes:
        """What it has printed so far."""
        assert self.process.stdout is not None
        while select.select([self.process.stdout], [], [], 0)[0]:
            chunk = os.read(self.process.stdout.fileno(), 65536)
            if not chunk:
                break
            self.output += chunk
        return self.output

    def status(self, limit_seconds: float = LIMIT_SECONDS) -> int:
        """The exit status; nothing of the run may be left."""
        output, errors = self.process.communicate(timeout=limit_seconds)
        self.output += output
        self.errors += errors
        assert self.processes() == []
        return self.process.returncode

    def folder(self) -> Path:
        """The one run's."""
        (found,) = self.runs.glob("*/*/*/*")
        return found


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Started]]:
    """Runs that the test starts; whatever of them is left is ended, and a failure."""
    runs: list[Started] = []
    yield runs
    left = [process for run in runs for process in run.processes()]
    for process in left:
        process.kill()
    assert left == []
