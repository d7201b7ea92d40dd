"""Commands run beside each other to their end or to a time limit, with what they print."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pcode.launch
from pcode.launch.processes import adopt_orphans, descendants, end_descendants
from pcode.launch.relay import Filter, without_noise
from pcode.launch.scratch import scratch_folder

_TETHER = Path(pcode.launch.__file__).with_name("tether.py")
_ENDING_SECONDS = 5.0
_LOOK_SECONDS = 0.5
_MOST_BYTES = 1 << 24  # of what one command prints
# More than a machine of some cores starts in a moment.
_TOGETHER = 32
_BLOCK = re.compile(r"^-{20,}\n(?P<text>.*?)^-{20,}$", re.DOTALL | re.MULTILINE)
_FATAL = "MPI_ERRORS_ARE_FATAL"
_LONGEST = 300  # characters of a reason
_EXECUTABLE = re.compile(r"Executable: (\S+)")


@dataclass(frozen=True)
class Done:
    """What became of a command.

    Attributes:
        status: its exit status, -N if a signal N ended it; None: the time was up.
        output: what it wrote to standard output.
        errors: the same of standard error.
    """

    status: int | None
    output: str
    errors: str

    @property
    def mute(self) -> bool:
        """Whether it failed without a word."""
        return bool(self.status) and not self.output and not self.errors

    def reason(self, limit_seconds: float) -> str:
        """Why it failed, in one line: what ssh or the program says, or else mpirun."""
        said = self._said()
        if self.status is None:
            late = f"no end within {limit_seconds:g} s"
            return f"{late}: {said}" if said else late
        return said or f"it ended with status {self.status}"

    def _said(self) -> str | None:
        if missing := _EXECUTABLE.search(self.errors):
            return f"no program {missing[1]} there; --python_path names the interpreter"
        lines = [line for line in _BLOCK.sub("", self.errors).splitlines() if line.strip()]
        own = [line for line in lines if line[0] not in "[* \t"]  # not MPI's, nor of a traceback
        blocks = [_told(block["text"]) for block in _BLOCK.finditer(self.errors)]
        found = next(iter([*own[-1:], *blocks, *lines[-1:]]), None)
        return found if found is None or len(found) <= _LONGEST else f"{found[:_LONGEST]}..."


def _told(block: str) -> str:
    """The first sentence of a block of mpirun's, and what it names line by line."""
    first, *rest = re.split(r"(?<=\.)\s|\n\n", block.strip(), maxsplit=1)
    named = re.findall(r"^ *(\w[\w ]*: +\S.*)$", "".join(rest), re.MULTILINE)
    facts = "; ".join(" ".join(line.split()) for line in named)
    return " ".join(first.split()).rstrip(".:") + (f" ({facts})" if facts else "")


def run_all(commands: Sequence[Sequence[str]], limit_seconds: float) -> list[Done]:
    """Run commands at the same time, some dozens of them at most; nothing is left of them.

    Args:
        commands: each an mpirun's or another program's argument list.
        limit_seconds: of each.
    """
    done: list[Done] = []
    for first in range(0, len(commands), _TOGETHER):
        with _ending_all():
            done += _run_together(commands[first : first + _TOGETHER], limit_seconds)
    return done


def mpirun_together(
    commands: Sequence[Sequence[str]], limit_seconds: float, note: Callable[[str], None]
) -> list[Done]:
    """As `run_all`, for mpiruns: their files go at the end, whatever becomes of them.

    One that fails without a word is started a second time: now and then one of Open MPI 5 does, of
    several that start at once on a busy machine, before it has started anything.

    Args:
        note: is told of it.
    """
    with scratch_folder() as scratch:
        flagged = [[command[0], *scratch.flags(False), *command[1:]] for command in commands]
        done = run_all(flagged, limit_seconds)
        mute = [index for index, end in enumerate(done) if end.mute]
        for index in mute:
            note(f"mpirun ended with status {done[index].status}, without a word: started again")
        again = run_all([flagged[index] for index in mute], limit_seconds)
        for index, end in zip(mute, again, strict=True):
            done[index] = end
        return done


class _Running:
    """A command that has been started.

    Its output goes into files, and not into pipes, which what a killed mpirun leaves keeps open.
    """

    def __init__(
        self, command: Sequence[str], limit_seconds: float, output: IO[bytes], errors: IO[bytes]
    ) -> None:
        tether: list[str] = []
        if sys.platform == "linux":  # should this process be killed, it gets SIGTERM
            tether = [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid())]
        self._output, self._errors = output, errors
        self.process = subprocess.Popen(
            [*tether, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,  # ssh finds no terminal to ask for a password on
        )
        self.deadline, self.failed = time.monotonic() + limit_seconds, False

    def wait(self, seconds: float) -> bool:
        """Whether it ends in that time."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is not None

    def look(self) -> None:
        """An mpirun whose ranks have failed has to end soon. It does not always."""
        errors, seen = self._text(self._errors), Filter()
        seen.feed(errors.encode())
        if not self.failed and (seen.death is not None or _FATAL in errors):
            self.failed, self.deadline = True, time.monotonic() + _ENDING_SECONDS

    def done(self, late: bool) -> Done:
        """What became of it."""
        status = None if late and not self.failed else self.process.returncode
        return Done(status, self._text(self._output), self._text(self._errors))

    @staticmethod
    def _text(file: IO[bytes]) -> str:
        place = os.pread(file.fileno(), _MOST_BYTES, 0)  # it may still be written to
        text = without_noise(place.replace(b"\0", b""))  # mpirun ends blocks with one
        return text.decode(errors="replace")


def _run_together(commands: Sequence[Sequence[str]], limit_seconds: float) -> list[Done]:
    with ExitStack() as files:
        started = []
        for command in commands:
            output, errors = (files.enter_context(tempfile.TemporaryFile("w+b")) for _ in range(2))
            started.append(_Running(command, limit_seconds, output, errors))
        left, late = list(started), list[_Running]()
        while left:
            if left[0].wait(_LOOK_SECONDS):
                left = [run for run in left if not run.wait(0)]
            for run in left:
                run.look()
            over = [run for run in left if time.monotonic() > run.deadline]
            late += over
            left = [run for run in left if run not in over]
        _end([run.process for run in late])
        return [run.done(run in late) for run in started]


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End them: mpirun, asked to, ends its ranks, and takes a moment for it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _ENDING_SECONDS
        for process in processes:
            process.send_signal(number)
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))


@contextmanager
def _ending_all() -> Iterator[None]:
    """Leave nothing of what is started within, whatever happens."""
    if sys.platform != "linux":
        yield
        return
    adopt_orphans()
    spare = descendants()
    try:
        yield
    finally:
        end_descendants(spare, _ENDING_SECONDS)
