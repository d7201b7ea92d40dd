"""A process that has imported torch and pcode once, and forks the programs that tests start.

Run as `python -m tests.support.rank_server DESCRIPTOR FOLDER PYTHON`, Linux only; DESCRIPTOR is a
socket that listens in FOLDER, PYTHON is what programs are to start others with. A `trampoline` asks
for each program, and stands for it. A fork has what a real start has: arguments, environment,
directory, descriptors, umask, cores, signals, `__main__`, standard streams, and at
its end exit handlers and MPI's finalising. Where it would not be the same, as the interpreter
reads it when it starts or a process cannot change it, the trampoline starts Python itself
(`why_cold`).

This differs all the same, and tests of such things start Python itself. All forks hash strings with
one seed. A fork is no descendant of the program that starts it, but of the server; it leads a
session of its own, and what /proc tells of its environment is the server's, so that what a fork
leaves behind without starting another program is not found by its environment. When a trampoline
is killed its program is killed a moment later; when one is stopped, it is not. Exit handlers of C
libraries do not run.

The server ends with its standard input, that of the tests' process: it ends all that it has forked
and removes FOLDER. Should it end otherwise, its forks end with it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.machinery
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import warnings
from collections.abc import Mapping

from tests.support.fork import Job, Program, become, read_program
from tests.support.trampoline import COLD, MOST_DESCRIPTORS, WORD, read_exactly, surroundings

# Read by the interpreter, or by libraries as the server loads them (Triton is not among them).
_READ_AT_START = (
    *("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "GLIBC_", "OMP_", "GOMP_", "KMP_", "MKL_"),
    *("OPENBLAS_", "NUMBA_", "TORCH_", "PYTORCH_", "CUDA_", "MPI4PY_"),
)
# Those of them that a fork follows, and those that torch and scikit-learn set for every process.
_FOLLOWED = ("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
_SET_BY_IMPORTS = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")
_LOCALE = ("LC_ALL", "LC_CTYPE", "LANG")


def _read_at_start(environment: Mapping[str, str]) -> set[str]:
    """What in an environment decides how an interpreter or a library starts."""
    found = {
        f"{name}={value}"
        for name, value in environment.items()
        if name.startswith(_READ_AT_START) and name not in {*_FOLLOWED, *_SET_BY_IMPORTS, *_LOCALE}
    }
    libraries = environment.get("LD_LIBRARY_PATH", "")
    if set(libraries.split(os.pathsep)) <= {f"{sys.prefix}/lib", ""}:
        # The wheel's mpirun adds its own libraries, which lie where mpi4py looks by itself.
        found.discard(f"LD_LIBRARY_PATH={libraries}")
    # The first that is set counts.
    locale = [environment[name] for name in _LOCALE if environment.get(name)]
    return found | {f"locale {locale[:1]}"}


def _tell(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the trampoline was killed
        connection.sendall(WORD.pack(number))


class Server:
    """The server's state: what it has forked, by connection to the trampoline.

    Args:
        listener: trampolines connect to it.
        environment: as it was before anything was imported.
    """

    def __init__(self, listener: socket.socket, environment: Mapping[str, str]) -> None:
        self._listener = listener
        # Without its own first entries: each program has others there.
        given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        self._path = [place for place in sys.path[1:] if place not in given]
        self._package = os.path.realpath(str(sys.modules["pcode"].__file__))
        self._environment = environment
        self._selector = selectors.DefaultSelector()
        self._processes: dict[socket.socket, int] = {}
        self._ends: dict[int, socket.socket] = {}

    def serve(self) -> tuple[Job, Program, list[int]] | None:
        """Fork what is asked for, until the tests' process has ended.

        Returns:
            In a fork: what to become, with the descriptors that it inherits. Otherwise None.
        """
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            # One at a time: what one event closes another may be about, or a new file may get.
            key, _ = self._selector.select()[0]
            if key.fileobj is sys.stdin:
                for process in self._processes.values():
                    os.kill(process, signal.SIGKILL)
                return None
            if key.fileobj is self._listener:
                forked = self._answer(self._listener.accept()[0])
                if forked is not None:
                    return forked
            elif isinstance(key.fileobj, socket.socket):
                self._end(key.fileobj)
            else:
                self._tell_end(key.fd)

    def _answer(self, connection: socket.socket) -> tuple[Job, Program, list[int]] | None:
        """Fork one program, or let it start as ever."""
        head, descriptors, _, _ = socket.recv_fds(connection, WORD.size, MOST_DESCRIPTORS)
        size = WORD.unpack(head)[0] if len(head) == WORD.size else 0
        content = read_exactly(connection, size)
        program, process = None, COLD
        if content and len(content) == size:  # otherwise the trampoline was killed
            job = Job(**json.loads(content))
            program = read_program(job.arguments, job.folder)
        if program is not None and self.why_cold(job, program) is None:
            # What comes before the fork has the program's own mask and actions waits for those.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            with warnings.catch_warnings():
                # Threads that libraries have started are theirs to start again.
                warnings.simplefilter("ignore", DeprecationWarning)
                process = os.fork()
            if process == 0:
                self._leave(connection)
                return job, program, descriptors
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for descriptor in descriptors:
            os.close(descriptor)
        _tell(connection, process)
        if process == COLD:
            connection.close()
            return None
        end = os.pidfd_open(process)
        self._processes[connection], self._ends[end] = process, connection
        self._selector.register(connection, selectors.EVENT_READ)
        self._selector.register(end, selectors.EVENT_READ)
        return None

    def _leave(self, connection: socket.socket) -> None:
        """In a fork: forget the server's own descriptors."""
        self._selector.close()
        for other in (self._listener, connection, *self._processes):
            other.close()
        for end in self._ends:
            os.close(end)

    def _end(self, connection: socket.socket) -> None:
        """The trampoline was killed: so is its program, whose end is noticed next."""
        self._selector.unregister(connection)
        os.kill(self._processes[connection], signal.SIGKILL)

    def _tell_end(self, end: int) -> None:
        """A program has ended."""
        connection = self._ends.pop(end)
        _, status = os.waitpid(self._processes.pop(connection), 0)
        self._selector.unregister(end)
        os.close(end)
        if connection in self._selector.get_map():
            self._selector.unregister(connection)
        _tell(connection, status)
        connection.close()

    def path(self, job: Job, program: Program) -> list[str]:
        """What a fresh interpreter would have as sys.path."""
        script = os.path.realpath(os.path.join(job.folder, program.name))
        first = {"-m": job.folder, "-c": "", "": os.path.dirname(script)}[program.kind]
        given = job.environment.get("PYTHONPATH")
        return [first, *(given.split(os.pathsep) if given else ()), *self._path]

    def why_cold(self, job: Job, program: Program) -> str | None:
        """Why a fork would not be as a real start is; None where it is."""
        own = surroundings()
        if job.surroundings != own:
            return f"{job.surroundings} instead of {own}"
        if not {0, 1, 2} <= set(job.descriptors) or len(job.descriptors) > MOST_DESCRIPTORS:
            return f"descriptors {job.descriptors}"
        ours, theirs = _read_at_start(self._environment), _read_at_start(job.environment)
        if ours != theirs:
            return f"variables {sorted(ours ^ theirs)}"
        path = [os.path.join(job.folder, place) for place in self.path(job, program)]
        found = importlib.machinery.PathFinder.find_spec("pcode", path)
        if found is not None and os.path.realpath(str(found.origin)) != self._package:
            return f"another pcode: {found.origin}"
        if not os.path.exists(f"/proc/{job.pid}/root{self._package}"):
            return "a host that does not see this pcode"
        return None


def main() -> None:
    """Serve, or become a program."""
    descriptor, folder, python = sys.argv[1:]
    environment = dict(os.environ)
    importlib.import_module("tests.support.preload")
    gc.collect()
    gc.freeze()  # what is never looked at again is never copied
    server = Server(socket.socket(fileno=int(descriptor)), environment)
    forked = server.serve()
    if forked is not None:
        job, program, descriptors = forked
        become(job, program, descriptors, python, server.path(job, program))
    shutil.rmtree(folder)
    os._exit(0)  # to take apart what was imported takes seconds


if __name__ == "__main__":
    main()
