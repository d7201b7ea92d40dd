"""A rehearsed container while it runs."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from environments.rehearsal.container import Container
from pcode.utils.errors import UserError

LIMIT_SECONDS = 300.0


class Running:
    """A container that has been started; its output is shown, and kept.

    Args:
        name: to show before each of its lines.
    """

    def __init__(self, container: Container, name: str) -> None:
        self.output = ""
        self._variables = dict(container.variables)
        self._name = name
        self._process = subprocess.Popen(
            container.command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._process.stdout is not None
        self._stream = self._process.stdout.fileno()

    def await_text(self, text: str) -> None:
        """Wait until it has printed `text`.

        Raises:
            UserError: it ends before, or the time is up.
        """
        deadline = time.monotonic() + LIMIT_SECONDS
        while text not in self.output:
            if not self._read(deadline):
                raise UserError(f"{self._name}: ended without {text!r}")

    def status(self) -> int:
        """The exit status, once it has ended."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while self._read(deadline):
            pass
        return self._process.wait(LIMIT_SECONDS)

    def send(self, number: signal.Signals) -> None:
        """A signal to its first process."""
        os.kill(self._first(), number)

    def call(self, argv: Sequence[str], user: int) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as an engine's health check is."""
        inside = ["nsenter", f"--target={self._first()}", "--mount", "--pid", "--net", "--root"]
        who = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"]
        command = [*inside, "--wd=/", *who, *argv]
        return subprocess.run(
            command, env=self._variables, capture_output=True, text=True, check=False
        )

    def _first(self) -> int:
        """The container's first process: the only child of the one that made its namespaces."""
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        while not (found := children.read_text(encoding="utf-8")):
            time.sleep(0.01)  # its namespaces are being made
        return int(found)

    def _read(self, deadline: float) -> bool:
        """Take what it prints next; False: nothing will follow."""
        left = deadline - time.monotonic()
        if not select.select([self._stream], [], [], max(left, 0))[0]:
            raise UserError(f"{self._name}: still running after {LIMIT_SECONDS:g} s")
        text = os.read(self._stream, 65536).decode(errors="replace")
        for line in text.splitlines():
            print(f"    {self._name}: {line}", flush=True)
        self.output += text
        return bool(text)
