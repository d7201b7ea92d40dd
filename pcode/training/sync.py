"""Synchronisation points: nodes agree, about once a second, to stop or save at the same step."""

import time
from dataclasses import dataclass

from pcode.communication import Communicator
from pcode.communication.gathering import gather_floats, sums
from pcode.training.stop import StopRequest

SECONDS_BETWEEN = 1.0


@dataclass(frozen=True)
class Decision:
    """What all nodes do now.

    Attributes:
        stop: save and end.
        save: write a checkpoint.
    """

    stop: bool
    save: bool


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
        self,
        communicator: Communicator,
        request: StopRequest,
        save_minutes: float | None,
    ) -> None:
        self._communicator, self._request = communicator, request
        self._save_seconds = None if save_minutes is None else 60 * save_minutes
        self._saved = self._last = time.monotonic()
        self._steps_made, self._steps_between = 0, 1

    def after_step(self, step: int) -> Decision:
        """Synchronise, if it is time for it, after the step that made it `step` steps."""
        self._steps_made += 1
        if self._steps_made < self._steps_between:
            return Decision(stop=False, save=False)
        return self.synchronise(step)

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
        (asked,) = sums(self._communicator.local_ranks, [self._request.asked], step)
        rows = gather_floats(self._communicator, [asked, due, steps], step)
        self._steps_made, self._steps_between = 0, int(rows[0][2])
        self._last = time.monotonic()
        if rows[0][1]:
            self._saved = self._last
        return Decision(stop=any(row[0] for row in rows), save=bool(rows[0][1]))
