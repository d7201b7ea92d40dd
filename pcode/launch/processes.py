"""Finding and ending the processes that a program left behind; Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def adopt_orphans() -> None:
    """From now on, a descendant whose parent dies becomes a child of this process.

    Whatever mpirun leaves behind, even when it is killed, can then still be found.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descendants() -> frozenset[int]:
    """Process ids of this process's children, their children, and so on."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        # proc(5): pid (name) state ppid ...; the name may itself hold blanks and brackets.
        parent = int(stat.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(folder.name))
    found: set[int] = set()
    ahead = [os.getpid()]
    while ahead:
        below = children.get(ahead.pop(), [])
        found.update(below)
        ahead += below
    return frozenset(found)


def end_descendants(spare: frozenset[int], limit_seconds: float) -> frozenset[int]:
    """SIGKILL every descendant but those in `spare`, and collect them.

    Returns:
        Those that are still there when the time is up: a process in a driver's call ends only
        when the call returns.
    """
    deadline = time.monotonic() + limit_seconds
    while left := descendants() - spare:
        if time.monotonic() > deadline:
            return left
        for process in left:
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(process, signal.SIGKILL)
        for process in left:
            with contextlib.suppress(ChildProcessError):  # not a child: its parent collects it
                os.waitpid(process, os.WNOHANG)
        time.sleep(0.002)  # it is killed but not gone; no event tells when a grandchild is
    return frozenset()
