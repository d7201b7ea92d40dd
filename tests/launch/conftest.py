"""A launcher under test (Linux): started, watched through a FIFO, and cleaned up after."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pcode.config.launch_options import Launch
from pcode.main import mpirun_of

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Long, because other work may share the cores; nothing waits for all of it unless it fails.
LIMIT_SECONDS = 120.0


class Launched:
    """starter.py, mpirun and ranks of one test."""

    def __init__(self, folder: Path) -> None:
        self.fifo = folder / "events"
        os.mkfifo(self.fifo)
        # Reading and writing: so opening waits for no rank, and there is no end between ranks.
        self._channel = os.open(self.fifo, os.O_RDWR | os.O_NONBLOCK)
        self._unread = b""
        self.launcher: subprocess.Popen[bytes]
        self.errors = b""

    def start(
        self,
        behaviour: str,
        *arguments: str,
        prefix: tuple[str, ...] = (),
        limit: float = 10.0,
        save_limit: float = 25.0,
        environ: dict[str, str] | None = None,
        **flags: Any,
    ) -> None:
        launch = Launch(**{"n_mpi_process": 2, **flags})
        program = [str(HERE / "rank.py"), str(self.fifo), behaviour, *arguments]
        command = mpirun_of(launch, program).command()
        self.launcher = subprocess.Popen(
            [
                *(*prefix, sys.executable, str(HERE / "starter.py")),
                *(str(limit), str(save_limit), *command),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(environ or {})},
            stderr=subprocess.PIPE,
        )
        self._end = os.pidfd_open(self.launcher.pid)

    def event(self) -> dict[str, Any]:
        """The next thing that a rank tells."""
        while b"\n" not in self._unread:
            watched = [self._channel, self._end]
            ready = select.select(watched, [], [], LIMIT_SECONDS)[0]
            # Were the ranks' last words and the end to come together, the words are read first.
            assert self._channel in ready, "no event: the launcher ended, or it takes too long"
            self._unread += os.read(self._channel, 65536)
        line, _, self._unread = self._unread.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def events(self, name: str, number: int = 2) -> list[dict[str, Any]]:
        """The next `number` things that ranks tell, in the order of ranks; all called `name`."""
        found = sorted((self.event() for _ in range(number)), key=lambda event: event["rank"])
        assert [event["event"] for event in found] == [name] * number
        assert [event["rank"] for event in found] == list(range(number))
        return found

    def status(self) -> int:
        """The exit status; at that moment nothing of the launch may be left."""
        self.errors += self.launcher.communicate(timeout=LIMIT_SECONDS)[1]
        assert self.processes() == []
        return self.launcher.returncode

    def processes(self) -> list[psutil.Process]:
        """Whatever lives and has this test's FIFO among its arguments: launcher, mpirun, ranks."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if str(self.fifo) in (process.info["cmdline"] or ())
        ]

    def mpirun(self) -> psutil.Process:
        (found,) = [p for p in self.processes() if p.ppid() == self.launcher.pid]
        return found

    def await_end(self) -> None:
        """Wait until every process of the launch is gone."""
        _, left = psutil.wait_procs(self.processes(), timeout=LIMIT_SECONDS)
        assert left == []

    def read_errors(self, text: bytes) -> None:
        """Wait until `text` has arrived on the launcher's stderr."""
        assert self.launcher.stderr is not None
        deadline = time.monotonic() + LIMIT_SECONDS
        while text not in self.errors:
            limit = max(0.0, deadline - time.monotonic())
            assert select.select([self.launcher.stderr], [], [], limit)[0], self.errors
            self.errors += os.read(self.launcher.stderr.fileno(), 65536)

    def clean_up(self) -> None:
        left = self.processes()
        for process in left:
            process.kill()
        if hasattr(self, "launcher"):
            self.launcher.communicate(timeout=LIMIT_SECONDS)
            os.close(self._end)
        os.close(self._channel)
        assert left == []


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Launched]:
    run = Launched(tmp_path)
    yield run
    run.clean_up()
