"""Decentralized training: started by hand it launches the nodes, started by MPI it is one."""

import atexit
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


def end(number: int, _: FrameType | None) -> None:
    """End at once, as the signal's own action would: nothing has been written."""
    os._exit(128 + number)


class Failures:
    """Sees to it that a process ends badly that has shown a traceback of a thread or an exit."""

    def __init__(self) -> None:
        self.status, self._exit = 0, os._exit  # modules may be gone at the last moment
        self._has_failed = self._is_over = False
        threading.excepthook = self._after(threading.excepthook)
        sys.unraisablehook = self._after(sys.unraisablehook)
        atexit.register(self._end)  # runs after all that are registered later

    def _after(self, shown: Callable[[Any], object]) -> Callable[[Any], None]:
        def show(failure: Any) -> None:
            shown(failure)
            self._has_failed = True
            if self._is_over:
                self._end()

        return show

    def _end(self) -> None:
        is_last, self._is_over = self._is_over, True
        if self._has_failed and self.status == 0:
            if not is_last:
                sys.stdout.flush()
            self._exit(1)


def explain(error: Exception) -> None:
    """End with one line where a limit of the shell keeps modules from being loaded."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    reason = " ".join(str(error).split()) or type(error).__name__
    if limit != resource.RLIM_INFINITY:
        reason += f"; the limit of memory is {limit // 1024} kB (ulimit -v)"
    elif "Too many open files" not in reason:
        return
    print(f"run.py: error: cannot load its modules: {reason}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    # Importing torch takes seconds, in which Ctrl-C is not worth a traceback. The first process of
    # a container gets no signal that it has not asked for.
    signals = {signal.SIGINT, *((signal.SIGTERM, signal.SIGUSR1) if os.getpid() == 1 else ())}
    for number in signals:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)
    failures = Failures()
    # joblib would try whether there is room for semaphores, and warn where /dev/shm is full.
    os.environ.setdefault("JOBLIB_MULTIPROCESSING", "0")
    from pcode.launch.environment import drop_empty

    drop_empty()
    try:
        from pcode.main import main
    except (ImportError, MemoryError, OSError, RuntimeError) as error:
        explain(error)
        raise
    if signal.getsignal(signal.SIGINT) == end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    failures.status = main(sys.argv[1:])
    sys.exit(failures.status)
