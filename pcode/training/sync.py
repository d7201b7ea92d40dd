"""How a run ends or saves at the same step everywhere: signals, and points of agreement."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

from pcode.communication import Communicator
from pcode.communication.gathering import gather_floats, sums

# Slurm signals the launcher and the ranks, and the launcher the ranks too: that is one request.
SAME_SECONDS = 1.0
# Kubernetes, Slurm and people send SIGTERM; Slurm, and our launcher through mpirun, SIGUSR1.
ASKING = (signal.SIGTERM, signal.SIGUSR1)
SECONDS_BETWEEN = 1.0


class StopRequest:
    """Whether this process was asked to end, by one of ASKING: when, on the monotonic clock."""

    def __init__(self) -> None:
        self.asked_at: float | None = None

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
            if self.asked_at is None:
                self.asked_at = now
            elif now - self.asked_at > SAME_SECONDS:
                os._exit(128 + number)  # process 1 of a container would not die of its own signal

        before = {number: signal.signal(number, take) for number in ASKING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Decision(NamedTuple):
    """What all nodes do now: stop, once they have saved, or save a checkpoint and go on."""

    stop: bool = False
    save: bool = False


class SyncPoints:
    """The synchronisation points of a run, at the same steps on every node.

    At each one the nodes agree on the next, by the speed of the first node: after every step at
    the beginning, later after as many as take SECONDS_BETWEEN. Between two of them a node waits
    for nobody but its neighbours.

    Args:
        communicator: this node's.
        request: whether this process was asked to end.
        save_minutes: between two checkpoints, by the clock of the first node; None where they do
            not follow the clock.
    """

    def __init__(
        self, communicator: Communicator, request: StopRequest, save_minutes: float | None
    ) -> None:
        self._communicator, self._request = communicator, request
        self._save_seconds = None if save_minutes is None else 60 * save_minutes
        self._saved = self._last = time.monotonic()
        self._steps_made, self._steps_between = 0, 1

    def after_step(self, step: int) -> Decision:
        """Synchronise, if it is time for it, after the step that made it `step` steps."""
        self._steps_made += 1
        return self.synchronise(step) if self._steps_made >= self._steps_between else Decision()

    def synchronise(self, step: int) -> Decision:
        """Ask all nodes whether to stop or save; all of them call it at the same step.

        Raises:
            CommunicationError: a node does not come.
        """
        self._communicator.fail_point("meeting", step)
        now = time.monotonic()
        # At most twice as many as there were: the first steps, which compile, are no measure.
        made = max(1, self._steps_made)
        steps = int(made * SECONDS_BETWEEN / max(now - self._last, 1e-9))
        steps = max(1, min(steps, 2 * made))
        due = self._save_seconds is not None and now - self._saved >= self._save_seconds
        (asked,) = sums(self._communicator.local_ranks, [self._request.asked_at is not None], step)
        rows = gather_floats(self._communicator, [asked, due, steps], step)
        self._steps_made, self._steps_between = 0, int(rows[0][2])
        self._last = time.monotonic()
        if rows[0][1]:
            self._saved = self._last
        return Decision(stop=any(row[0] for row in rows), save=bool(rows[0][1]))
