"""What a fork of the rank server does: become the program that it was asked for."""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import io
import os
import random
import runpy
import signal
import sys
import tempfile
import threading
import types
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from tests.support.trampoline import ENTERED, namespaces

_ABOVE_DESCRIPTORS = 512
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Job(NamedTuple):
    """A program to start, as the trampoline tells it."""

    pid: int
    arguments: list[str]
    environment: dict[str, str]
    folder: str
    descriptors: list[int]
    umask: int
    cores: list[int]
    ignored: list[int]
    blocked: list[int]
    namespaces: list[str]
    surroundings: dict[str, Any]


class Program(NamedTuple):
    """A command after the interpreter.

    Attributes:
        kind: "-m", "-c" or "" for a script.
        name: of the module, the code, or the script.
        unbuffered: -u.
    """

    kind: str
    name: str
    arguments: list[str]
    unbuffered: bool


def read_program(arguments: Sequence[str], folder: str) -> Program | None:
    """The program of a command; None: there is none, or options that a fork cannot follow."""
    unbuffered = arguments[:1] == ["-u"]
    words = list(arguments[unbuffered:])
    if len(words) > 1 and words[0] in ("-m", "-c"):
        return Program(words[0], words[1], words[2:], unbuffered)
    if words and not words[0].startswith("-") and os.path.isfile(os.path.join(folder, words[0])):
        return Program("", words[0], words[1:], unbuffered)
    return None


def become(
    job: Job, program: Program, descriptors: Sequence[int], python: str, path: Sequence[str]
) -> NoReturn:
    """Be the program, to its end.

    Args:
        descriptors: what came for those of the job.
        python, path: its sys.executable and sys.path.
    """
    server, libc = os.getppid(), ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != server:
        os._exit(1)
    os.setsid()
    # By way of numbers above all of them, as they may lie in each other's place.
    moved = [fcntl.fcntl(d, fcntl.F_DUPFD_CLOEXEC, _ABOVE_DESCRIPTORS) for d in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    for source, number in zip(moved, job.descriptors, strict=True):
        os.dup2(source, number)
        os.close(source)
    _enter_namespaces(job)
    os.chdir(job.folder)
    os.umask(job.umask)
    os.sched_setaffinity(0, job.cores)
    os.environ.clear()
    os.environ.update(job.environment)
    for number in job.ignored:
        signal.signal(number, signal.SIG_IGN)
    # Whom the fork stands behind, for tests that look for both, and for ps.
    with open("/proc/self/comm", "w", encoding="ascii") as name:
        name.write(f"fork {job.pid}")
    unbuffered = program.unbuffered or bool(job.environment.get("PYTHONUNBUFFERED"))
    sys.stdin = sys.__stdin__ = _stream(0, "r", unbuffered)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _stream(1, "w", unbuffered)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(2, "w", unbuffered)  # type: ignore[misc]
    sys.executable, sys.path[:] = python, path
    sys.orig_argv[:] = [python, *job.arguments]
    sys.dont_write_bytecode = bool(job.environment.get("PYTHONDONTWRITEBYTECODE"))
    random.seed()
    np.random.seed()
    tempfile.tempdir = None  # imports have asked for it, in another environment
    importlib.invalidate_caches()
    for module in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[module]  # a program may have others
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    signal.pthread_sigmask(signal.SIG_SETMASK, job.blocked)
    _end(_run(program, main), main)


def _enter_namespaces(job: Job) -> None:
    """Go where the program was started: a host of its own, as tests make them."""
    libc = ctypes.CDLL(None, use_errno=True)
    pairs = zip(ENTERED, namespaces(ENTERED), job.namespaces, strict=True)
    entered = [name for name, own, other in pairs if own != other]
    # All are opened before the first is entered, with which /proc may be another.
    files = [os.open(f"/proc/{job.pid}/ns/{name}", os.O_RDONLY) for name in entered]
    for file in files:
        if libc.setns(file, 0) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        os.close(file)


def _stream(descriptor: int, mode: str, unbuffered: bool) -> io.TextIOWrapper:
    """A standard stream, as the interpreter makes it."""
    own = {0: sys.stdin, 1: sys.stdout, 2: sys.stderr}[descriptor]
    buffering = 0 if unbuffered and mode == "w" else -1
    file = open(descriptor, f"{mode}b", buffering, closefd=False)  # noqa: SIM115
    stream = io.TextIOWrapper(
        file,
        own.encoding,
        own.errors,
        line_buffering=not unbuffered and (descriptor == 2 or file.isatty()),
        write_through=unbuffered,
    )
    stream.mode = mode  # type: ignore[misc]
    return stream


def _run(program: Program, main: types.ModuleType) -> int:
    """Run the program as `__main__`; the exit status that it asks for."""
    sys.argv[:] = [program.kind or program.name, *program.arguments]
    try:
        if program.kind == "-m":
            runpy._run_module_as_main(program.name)  # type: ignore[attr-defined]
        elif program.kind == "-c":
            exec(compile(program.name, "<string>", "exec"), main.__dict__)
        else:
            main.__file__ = os.path.join(os.getcwd(), program.name)
            with io.open_code(main.__file__) as file:
                code = compile(file.read(), main.__file__, "exec")
            exec(code, main.__dict__)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return int(end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, runpy.__file__):
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _end(status: int, main: types.ModuleType) -> NoReturn:
    """End as an interpreter does, but leave what the server has imported to the system.

    To take that apart takes seconds, as every page of it has to be copied.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # waits for the program's threads
    atexit._run_exitfuncs()
    main.__dict__.clear()
    gc.collect()
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.Finalize()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = 120  # the interpreter's own
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)
