"""Processes that make items of a data set ahead of their reader; without named semaphores.

torch's DataLoader talks to its workers by queues, whose semaphores have names in /dev/shm: they
stay there where a process and the tracker of its resources are killed together. Here each worker
has a pipe of its own, whose end tells it that the reader has ended, however that did.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from multiprocessing.util import get_temp_dir
from typing import Any, TypeVar

import torch
import torch.multiprocessing  # sends tensors through shared memory

from pcode.utils.errors import LoaderError
from pcode.utils.files import one_line

Task = TypeVar("Task")

# Tasks that a worker has at a time.
AHEAD = 2
# How long the end of a process that is gone is waited for.
ENDING_SECONDS = 1.0
# Of the folder for temporary files: workers listen some 32 bytes below it, and a socket's path has
# 107.
_LONGEST_PATH_BYTES = 75


@functools.cache
def workers_context() -> ForkServerContext:
    """Return how workers are started: a process in which MPI or OpenMP runs must not be forked.

    A server that is started afresh, by the first call, and has imported what run.py and workers
    need, is forked instead: on one machine the first batch then took .17 s, where spawned workers
    need 3 s for their imports, each epoch.
    """
    usual = tempfile.gettempdir()
    if len(os.fsencode(usual)) > _LONGEST_PATH_BYTES:  # sockets are then made elsewhere
        places = ("/dev/shm", "/tmp")
        tempfile.tempdir = next((one for one in places if os.access(one, os.W_OK)), usual)
        try:
            get_temp_dir()  # from now on that of this process and its workers
        finally:
            tempfile.tempdir = usual
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["pcode.main", "pcode.datasets.imagenet", "torchvision.transforms", "PIL.JpegImagePlugin"]
    )
    # Or each worker would run the program's file, which may have changed since.
    vars(sys.modules["__main__"]).pop("__file__", None)
    # The tracker has nothing to track: if it was killed, nothing is lost.
    warnings.filterwarnings("ignore", "resource_tracker: process died")
    forkserver.ensure_running()
    return context


def made_by_workers(
    make: Callable[[Task], object], tasks: Sequence[Task], num_workers: int
) -> Generator[Any, None, None]:
    """Yield what `make` makes of each task, in order; workers do it, which end with the iterator.

    Tensors come through shared memory, where `make` has put them. Where it raises, the item is a
    LoaderError.

    Raises:
        LoaderError: a worker has ended; it says how.
    """
    workers: list[tuple[BaseProcess, Connection]] = []
    try:
        for _ in range(min(num_workers, len(tasks))):
            workers.append(_started(make))
        ahead = AHEAD * len(workers)
        for number in range(-ahead, len(tasks)):
            process, pipe = workers[number % len(workers)]
            with _naming(process):
                item = pipe.recv() if number >= 0 else None
                if number + ahead < len(tasks):
                    pipe.send(tasks[number + ahead])
            if number >= 0:
                yield item
    finally:
        for _, pipe in workers:
            pipe.close()
        for process, _ in workers:
            process.join()


def _started(make: Callable[[Task], object]) -> tuple[BaseProcess, Connection]:
    """Start a worker; return it with the reader's end of its pipe."""
    try:
        ours, theirs = workers_context().Pipe()
        with theirs:
            process = workers_context().Process(target=_work, args=(make, theirs), daemon=True)
            process.start()
    except (OSError, RuntimeError) as error:
        raise LoaderError(f"a loader process cannot be started: {one_line(error)}") from error
    return process, ours


def _work(make: Callable[[Task], object], pipe: Connection) -> None:
    """Be a worker, until the reader closes the other end of the pipe or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the reader
    torch.set_num_threads(1)
    with suppress(EOFError, ConnectionError):
        while True:
            task = pipe.recv()
            try:
                made = make(task)
            except Exception as error:
                made = LoaderError(f"{type(error).__name__}: {one_line(error)}")
            pipe.send(made)


@contextmanager
def _naming(process: BaseProcess) -> Iterator[None]:
    """Raise a LoaderError that says what has become of the process, for one of its pipe."""
    try:
        yield
    # torch raises RuntimeError where there are no descriptors left for what is sent.
    except (EOFError, OSError, RuntimeError) as error:
        process.join(ENDING_SECONDS)
        code, fate = process.exitcode, f"failed ({one_line(error)})"
        if code is not None:
            fate = f"ended with status {code}"
        if code is not None and code < 0:
            fate = f"was ended by signal {-code} ({signal.strsignal(-code)})"
        raise LoaderError(f"the loader process {process.pid} {fate}") from error
