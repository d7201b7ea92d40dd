"""Signals that ask a run to end in good order."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Slurm signals the launcher and the ranks, and the launcher the ranks too: that is one request.
SAME_SECONDS = 1.0
# Kubernetes, Slurm and people send SIGTERM; Slurm, and our launcher through mpirun, SIGUSR1.
ASKING = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Whether this process was asked to end, by one of ASKING."""

    def __init__(self) -> None:
        self._since: float | None = None

    @property
    def asked(self) -> bool:
        return self._since is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals inside the block; a second one ends the process at once.

        Python hears of signals in its main thread only: elsewhere nothing is taken.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def take(number: int, frame: FrameType | None) -> None:
            now = time.monotonic()
            if self._since is None:
                self._since = now
            elif now - self._since > SAME_SECONDS:
                os._exit(128 + number)  # process 1 of a container would not die of its own signal

        before = {number: signal.signal(number, take) for number in ASKING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
