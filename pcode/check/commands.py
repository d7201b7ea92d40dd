"""Commands run beside each other to their end or to a time limit, with what they print."""

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from pcode.launch.closing import close_ports_of
from pcode.launch.relay import Filter, without_noise
from pcode.launch.scratch import scratch_folder
from pcode.launch.supervise import no_process_left, tethered

_ENDING_SECONDS = 5.0
_POLL_SECONDS = 0.5
_MAX_OUTPUT_BYTES = 1 << 24
# More than a machine of some cores starts in a moment.
_MAX_CONCURRENT = 32
_BLOCK = re.compile(r"^-{20,}\n(?P<text>.*?)^-{20,}$", re.DOTALL | re.MULTILINE)
_FATAL = "MPI_ERRORS_ARE_FATAL"
_MAX_REASON_LENGTH = 300
_EXECUTABLE = re.compile(r"Executable: (\S+)")


@dataclass(frozen=True)
class CommandResult:
    """A command's exit status and what it wrote to standard output and standard error.

    The status is -N if a signal N ended it, and None if it reached the time limit.
    """

    status: int | None
    output: str
    errors: str

    def reason(self, limit_seconds: float) -> str:
        """Say why it failed in one line: what ssh or the program says, or else mpirun."""
        said = self._message()
        if self.status is None:
            late = f"no end within {limit_seconds:g} s"
            return f"{late}: {said}" if said else late
        return said or f"it ended with status {self.status}"

    def _message(self) -> str:
        if missing := _EXECUTABLE.search(self.errors):
            return f"no program {missing[1]} there; --python_path names the interpreter"
        lines = [line for line in _BLOCK.sub("", self.errors).splitlines() if line.strip()]
        own = [line for line in lines if line[0] not in "[* \t"]  # not MPI's, nor of a traceback
        blocks = [_summary(block["text"]) for block in _BLOCK.finditer(self.errors)]
        found = next(iter([*own[-1:], *blocks, *lines[-1:], ""]))
        return f"{found[:_MAX_REASON_LENGTH]}..." if len(found) > _MAX_REASON_LENGTH else found


def _summary(block: str) -> str:
    """Return the first sentence of a block of mpirun's, and what it names line by line."""
    first, *rest = re.split(r"(?<=\.)\s|\n\n", block.strip(), maxsplit=1)
    named = re.findall(r"^ *(\w[\w ]*: +\S.*)$", "".join(rest), re.MULTILINE)
    facts = "; ".join(" ".join(line.split()) for line in named)
    return " ".join(first.split()).rstrip(".:") + (f" ({facts})" if facts else "")


def run_all(
    commands: Sequence[Sequence[str]], limit_seconds: float, *, here: bool = False
) -> list[CommandResult]:
    """Run commands at the same time, some dozens of them at most; leave no process behind.

    The limit is that of each. Where it is interrupted, `map` cancels those that have not begun.

    Args:
        here: they are mpiruns, and their ranks all run on this machine.
    """
    with ThreadPoolExecutor(_MAX_CONCURRENT) as pool, no_process_left(_ENDING_SECONDS):
        return list(pool.map(lambda command: _run(command, limit_seconds, here), commands))


def run_mpiruns(
    commands: Sequence[Sequence[str]],
    limit_seconds: float,
    note: Callable[[str], None],
    *,
    here: bool = False,
) -> list[CommandResult]:
    """Run mpiruns as `run_all` does, and remove their files, whatever becomes of them.

    One that fails silently is started a second time, with a note: of several that start at once on
    a busy machine, now and then one of Open MPI 5 does, before it has started anything.
    """
    with scratch_folder() as scratch:
        flagged = [[command[0], *scratch.flags(False), *command[1:]] for command in commands]
        ended = dict(enumerate(run_all(flagged, limit_seconds, here=here)))
        silent = [at for at, each in ended.items() if each.status and not each.output + each.errors]
        for at in silent:
            note(f"mpirun ended with status {ended[at].status}, without a word: started again")
        again = run_all([flagged[at] for at in silent], limit_seconds, here=here)
        return list((ended | dict(zip(silent, again, strict=True))).values())


def _run(command: Sequence[str], limit_seconds: float, here: bool) -> CommandResult:
    """Run a command; one that is late gets SIGTERM, at which mpirun ends its ranks, and SIGKILL."""
    # Files, and not pipes, which the processes of a killed mpirun would hold open.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            tethered(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,  # ssh finds no terminal to ask for a password on
        )
        if here:
            close_ports_of(process.pid)
        deadline, has_failed = time.monotonic() + limit_seconds, False
        while not _ends(process, _POLL_SECONDS) and time.monotonic() < deadline:
            # An mpirun whose ranks have failed has to end soon. It does not always.
            relayed, said = Filter(), _text(errors)
            relayed.feed(said.encode())
            if not has_failed and (relayed.death is not None or _FATAL in said):
                has_failed, deadline = True, time.monotonic() + _ENDING_SECONDS
        is_late = process.poll() is None
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not _ends(process, 0):
                process.send_signal(number)
                _ends(process, _ENDING_SECONDS)
        status = None if is_late and not has_failed else process.returncode
        return CommandResult(status, _text(output), _text(errors))


def _ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.poll() is not None


def _text(file: IO[bytes]) -> str:
    content = os.pread(file.fileno(), _MAX_OUTPUT_BYTES, 0)  # it may still be written to
    text = without_noise(content.replace(b"\0", b""))  # mpirun ends blocks with one
    return text.decode(errors="replace")
