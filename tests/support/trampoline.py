"""What tests start in Python's place: it lets the rank server fork the program, and stands for it.

Linux only; the arguments are Python's own. It hands over what a program inherits: arguments,
environment, directory, descriptors, signals. From then on signals to this process go to the
program, the program's end is this process's end, exit status or signal, and when this process is
killed the program is too. What the server cannot give to a program that it forks is started here as
ever, by becoming Python.

It imports little and nothing of the package, for speed.
"""

import contextlib
import json
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Iterable, Sequence

WORD = struct.Struct("=i")
# The server's answer in place of a process id: start it as ever.
COLD = 0
MOST_DESCRIPTORS = 250  # SCM_MAX_FD is 253
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}
_HANDED_ON = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD} - _FAULTS
# A fork can go to those of the first row, if the server is root's.
ENTERED = ("ipc", "mnt", "net", "uts")
_SHARED = ("cgroup", "pid", "user")


def namespaces(names: Iterable[str]) -> list[str]:
    """Those that this process is in."""
    return [os.readlink(f"/proc/self/ns/{name}") for name in names]


def surroundings() -> dict[str, Sequence[object]]:
    """What a forked program shares with the server and cannot be given."""
    limits = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
    return {
        "namespaces": namespaces(_SHARED if os.geteuid() == 0 else _SHARED + ENTERED),
        "ids": [*os.getresuid(), *os.getresgid(), *sorted(os.getgroups())],
        "root": [os.stat("/").st_dev, os.stat("/").st_ino],
        "limits": [list(resource.getrlimit(limit)) for limit in sorted(set(limits))],
    }


def _descriptors() -> list[int]:
    """The open ones."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            os.fstat(int(name))
        except OSError:  # that of the listing
            continue
        found.append(int(name))
    return found


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_exactly(connection: socket.socket, num_bytes: int) -> bytes:
    """Shorter only where the other end is closed."""
    found = b""
    while len(found) < num_bytes and (piece := connection.recv(num_bytes - len(found))):
        found += piece
    return found


def main(path: str) -> None:
    """Stand for the program.

    Args:
        path: the server's socket.
    """
    arguments = sys.argv[1:]
    # What comes before there is a process to hand it to waits.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDED_ON)
    descriptors = _descriptors()
    job = {
        "pid": os.getpid(),
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "descriptors": descriptors,
        "umask": _umask(),
        "cores": sorted(os.sched_getaffinity(0)),
        # Python itself ignores SIGPIPE and SIGXFSZ.
        "ignored": [
            number
            for number in _HANDED_ON - {signal.SIGPIPE, signal.SIGXFSZ}
            if signal.getsignal(number) == signal.SIG_IGN
        ],
        "blocked": sorted(blocked),
        "namespaces": namespaces(ENTERED),
        "surroundings": surroundings(),
    }
    content = json.dumps(job).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
        except ConnectionRefusedError:
            sys.exit(_why_ended(path))
        handed = descriptors[:MOST_DESCRIPTORS]  # with more the server lets it start as ever
        socket.send_fds(connection, [WORD.pack(len(content))], handed)
        connection.sendall(content)
        (process,) = WORD.unpack(read_exactly(connection, WORD.size).ljust(WORD.size, b"\xff"))
        if process > 0:
            _stand_for(process, connection, descriptors)
    if process != COLD:
        sys.exit(_why_ended(path))
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    os.execv(sys.executable, [sys.executable, *arguments])


def _why_ended(path: str) -> str:
    with open(f"{path}.errors", encoding="utf-8") as errors:
        return f"the rank server has ended: {errors.read()}"


def _stand_for(process: int, connection: socket.socket, descriptors: Sequence[int]) -> None:
    """Hand signals on until the program has ended, and end as it did."""

    def pass_on(number: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(process, number)

    # Those that were ignored or blocked as well: the program may ask for them later.
    for number in _HANDED_ON:
        signal.signal(number, pass_on)
    for descriptor in descriptors:  # who reads from the program must see its end, not this one's
        os.close(descriptor)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDED_ON)
    answer = read_exactly(connection, WORD.size)
    if len(answer) < WORD.size:
        os._exit(1)
    (status,) = WORD.unpack(answer)
    if os.WIFSIGNALED(status):
        ended_by = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the program's own is enough
        if ended_by != signal.SIGKILL:
            signal.signal(ended_by, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {ended_by})
        os.kill(os.getpid(), ended_by)
    os._exit(os.waitstatus_to_exitcode(status))
