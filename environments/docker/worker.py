"""The first process of a worker's container: `worker.py SSHD_CONFIG`.

It keeps an SSH server, through which an mpirun elsewhere starts ranks here, and adopts whatever
process loses its parent. Kubernetes and Docker tell only this process that the container has to
go: it tells one of its ranks, after which all of the run save and end, and goes when its ranks
are gone.

Exit status: 0 after SIGTERM or SIGINT, 1 if the SSH server ended by itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

SSHD = "/usr/sbin/sshd"
# Of the end of processes that are not its children this process hears nothing.
_LOOK_SECONDS = 0.2
_RANK = b"\0OMPI_COMM_WORLD_RANK="
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def main() -> int:
    """Serve until asked to end."""
    (config,) = sys.argv[1:]
    if os.getpid() != 1:  # under an init process, orphans become children of this one all the same
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    asking = (signal.SIGTERM, signal.SIGINT)
    expected = {*asking, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, expected)
    server = os.posix_spawn(SSHD, [SSHD, "-D", "-e", "-f", config], os.environ, setsigmask=())
    is_asked = has_asked = False
    while True:
        number = _await(expected, _LOOK_SECONDS if is_asked else None)
        if number in asking:
            if is_asked:  # a second time: at once
                return 0
            is_asked = True
        if is_asked and not has_asked:  # there may be no rank yet
            has_asked = _ask()
        if _reap(server):
            print("worker: sshd has ended", file=sys.stderr)
            return 1
        if is_asked and _descendants().keys() <= {server}:
            os.kill(server, signal.SIGTERM)
            return 0


def _await(numbers: set[signal.Signals], limit_seconds: float | None) -> int | None:
    """Wait for the next of these signals; None: none came in time."""
    if limit_seconds is None:
        return signal.sigwait(numbers)
    found = signal.sigtimedwait(numbers, limit_seconds)
    return None if found is None else found.si_signo


def _reap(server: int) -> bool:
    """Let go of children that have ended; whether the server is one of them."""
    found = False
    with suppress(ChildProcessError):  # there is no child
        while (process := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            found |= process == server
    return found


def _descendants() -> dict[int, bytes]:
    """Return the living processes that came from this one, each with its environment."""
    parents: dict[int, int] = {}
    environments: dict[int, bytes] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            # proc(5): pid (name) state ppid ...; the name may itself hold brackets.
            fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            parents[int(folder.name)] = int(fields[1])
            if fields[0] != b"Z":
                environments[int(folder.name)] = _environment(folder)
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
    own = os.getpid()
    return {
        process: environment
        for process, environment in environments.items()
        if own in _ancestors(process, parents)
    }


def _environment(folder: Path) -> bytes:
    try:
        return (folder / "environ").read_bytes()
    except (PermissionError, ProcessLookupError):  # another user's, or it ended meanwhile
        return b""


def _ancestors(process: int, parents: dict[int, int]) -> set[int]:
    found: set[int] = set()
    while process in parents:
        process = parents[process]
        found.add(process)
    return found


def _ask() -> bool:
    """Ask one rank to save and end, which tells the others; whether there is one."""
    for process, environment in sorted(_descendants().items()):
        if _RANK in environment:
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(process, signal.SIGTERM)
                return True
    return False


if __name__ == "__main__":
    sys.exit(main())
