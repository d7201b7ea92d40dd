"""What ranks and mpirun write to standard error, without mpirun's own blocks of lines.

mpirun says in blocks between two rules how ranks ended, also where they ended in good order. They
are taken out, and what they say is noted: the launcher says it in one line where nobody else did.
Blocks of other wording pass through.
"""

import os
import re
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

_RULE = rb"-{74}\n"
_BLOCK = re.compile(_RULE + rb"(?P<text>(?:prterun |MPI_ABORT ).*?\n)" + _RULE, re.DOTALL)
# Its beginning, or that of a line of mpirun's, or what the next bytes may make one.
_BEGUN = re.compile(
    rb"(?:-{1,74}|"
    + _RULE
    + rb"(?:[^\n]{0,9}|(?:prterun |MPI_ABORT ).*)"
    + rb"|\[[\w.-]*(?::\d*(?:\](?: [^\n]*)?)?)?"
    + rb"|\[warn\](?: [^\n]*)?)\Z",
    re.DOTALL,
)
# Lines without use to anybody: of messages that were left out, of an ssh that was too quick for
# mpirun, which puts it into a process group of its own as ssh's own process does, and of an ending
# mpirun: of descriptors closed before its libevent had forgotten them, and of ranks gone before its
# PMIx had answered them.
_NOISE = re.compile(
    rb"\[warn\] Epoll [^\n]*: Bad file descriptor\n"
    rb"|(?:\[[^\]\n]*\] )?\d+ more processe?s? ha(?:s|ve) sent help message help-mpi-api\.txt"
    rb"[^\n]*\n"
    rb"|\[[^\]\n]*\] (?:Set MCA parameter \"\w+_base_help_aggregate\""
    rb"|PMIX ERROR: PMIX_ERR_UNREACH in file \S+/pmix_server\.c at line "
    rb"|plm:ssh: Warning: setpgid\(\d+,\d+\) failed in parent)[^\n]*\n"
)
_CLOSED = re.compile(rb"\[[^\]\n]*\] prterun: SIGPIPE detected - aborting\n")
_KILLED = re.compile(
    rb"rank (\d+) with PID (\d+) on node (\S+)\s+exited\s+on\s+signal\s+(\d+)\s+\(([^)]*)\)"
)
_FAILED = re.compile(rb"Process name: \[[^\]]*,(\d+)\]\s+Exit code:\s+(\d+)")
_ABORTED = re.compile(rb"due to process rank (\d+) .*abort", re.DOTALL)
_ERROR = b"run.py: error:"
_TRACEBACK = b"Traceback (most recent call last)"
# What a rank says of its own step: where all find the same (no disk, no memory), once is enough. Of
# lines that name a peer any may be the reason of the others, and of ranks that diverge any is named
# in the summary.
_OF_RANK = re.compile(
    rb"^run\.py: error: rank \d+(?:, step \d+)?: (?![^\n]*(?:loss|finite|NaN))[^\n]*\n",
    re.MULTILINE,
)
_MOST_HELD_BYTES = 65536


@dataclass(frozen=True)
class Death:
    """How a rank ended, in a sentence, and its exit status, where mpirun names one."""

    rank: int
    sentence: str
    status: int | None = None


class Filter:
    """Takes mpirun's blocks out of a stream of bytes."""

    def __init__(self) -> None:
        self.death: Death | None = None  # the first that mpirun says to have ended badly
        self.has_error = False  # of run.py, which passed
        self.has_traceback = False  # of any program
        self.is_closed = False  # nobody reads mpirun's standard output any more, so that it ended
        self._held = self._tail = b""

    @property
    def fails(self) -> bool:
        """Whether a rank has reported an error, or mpirun a rank that ended badly."""
        return self.has_error or self.death is not None

    def feed(self, chunk: bytes) -> bytes:
        """Return what can be passed on after these bytes."""
        # mpirun ends a block of several lines with a NUL.
        text = _BLOCK.sub(self._note, self._held + chunk.replace(b"\0", b""))
        text = without_noise(text)
        text, num_closed = _CLOSED.subn(b"", text)
        self.is_closed = self.is_closed or num_closed > 0
        text = _OF_RANK.sub(self._first_error, text)
        begun = _BEGUN.search(text)
        cut = begun.start() if begun and len(text) < _MOST_HELD_BYTES else len(text)
        self._held = text[cut:]
        return self._passed(text[:cut])

    def close(self) -> bytes:
        """Return what was held back, at the end of the stream."""
        held, self._held = self._held, b""
        return self._passed(held)

    def _passed(self, text: bytes) -> bytes:
        seen = self._tail + text
        self.has_error = self.has_error or _ERROR in seen
        self.has_traceback = self.has_traceback or _TRACEBACK in seen
        self._tail = seen[-len(_TRACEBACK) :]
        return text

    def _first_error(self, line: re.Match[bytes]) -> bytes:
        """Return the line, unless an error has passed: ranks that fail together say so at once."""
        passes, self.has_error = not self.has_error, True
        return line[0] if passes else b""

    def _note(self, block: re.Match[bytes]) -> bytes:
        if self.death is None:
            self.death = _death(block["text"])
        return b""


def without_noise(text: bytes) -> bytes:
    """Return the text without the lines of mpirun's that mean nothing."""
    return _NOISE.sub(b"", text)


def _death(text: bytes) -> Death | None:
    """Return how a rank ended, from the text of a block."""
    if match := _KILLED.search(text):
        rank, process, host, number, signal = (group.decode() for group in match.groups())
        end = f"was ended by signal {number} ({signal})"
        return Death(int(rank), f"rank {rank} (process {process} on {host}) {end}")
    if match := _FAILED.search(text):
        rank, status = (group.decode() for group in match.groups())
        return Death(int(rank), f"rank {rank} ended with status {status}", int(status))
    if match := _ABORTED.search(text):
        rank = match[1].decode()
        return Death(int(rank), f"rank {rank} ended the run")
    return None


class Relay:
    """Passes a program's standard error, `source`, on to this one's through a Filter, in a thread.

    There `failed` is called once the filter has seen that the run fails: by an error that a rank
    has reported, or, unless the others survive that, by a rank that has ended badly.
    """

    def __init__(self, source: int, failed: Callable[[], object], survives: bool = False) -> None:
        self.filter = Filter()
        self._source, self._failed, self._survives = source, failed, survives
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def finish(self, limit_seconds: float) -> None:
        """Wait until all that was written has been passed on."""
        self._thread.join(limit_seconds)

    def _work(self) -> None:
        reported = False
        while chunk := os.read(self._source, 65536):
            self._write(self.filter.feed(chunk))
            fails = self.filter.has_error if self._survives else self.filter.fails
            if fails and not reported:
                self._failed()
                reported = True
        self._write(self.filter.close())
        os.close(self._source)

    def _write(self, text: bytes) -> None:
        """Drop what nobody reads any more: the ranks must not wait for it."""
        with suppress(OSError):
            sys.stderr.buffer.write(text)
            sys.stderr.buffer.flush()
