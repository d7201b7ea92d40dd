"""Finding and ending the processes that a program left behind; Linux only."""

import contextlib
import ctypes
import time

import psutil

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_LOOK_SECONDS = 0.05


def adopt_orphans() -> None:
    """From now on, a descendant whose parent dies becomes a child of this process.

    Whatever mpirun leaves behind, even when it is killed, can then still be found.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descendants() -> frozenset[int]:
    """Process ids of this process's children, their children, and so on."""
    return frozenset(process.pid for process in psutil.Process().children(recursive=True))


def end_descendants(spare: frozenset[int], limit_seconds: float) -> frozenset[int]:
    """SIGKILL every descendant but those in `spare`, and collect them.

    Returns:
        Those that are still there when the time is up: a process in a driver's call ends only
        when the call returns.
    """
    deadline = time.monotonic() + limit_seconds
    while left := descendants() - spare:
        if time.monotonic() > deadline:
            break
        ending = []
        for pid in left:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                process = psutil.Process(pid)
                process.kill()
                ending.append(process)
        psutil.wait_procs(ending, _LOOK_SECONDS)  # those that were orphaned meanwhile come again
    return left
