"""Signals that ask a run to end in good order."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Kubernetes, Slurm and people send SIGTERM; Slurm, and our launcher through mpirun, SIGUSR1.
ASKING = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Whether this process was asked to end.

    Attributes:
        asked: by one of ASKING.
    """

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals inside the block; a second one ends the process as it always would.

        Python hears of signals in its main thread only: elsewhere nothing is taken.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def take(number: int, frame: FrameType | None) -> None:
            if self.asked:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            self.asked = True

        before = {number: signal.signal(number, take) for number in ASKING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
