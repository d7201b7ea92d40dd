"""How long to pause between two polls, from how long they took and what they brought.

A thread that waits polls briefly at full speed (small messages take microseconds), then sleeps a
tenth of the time since anything moved: at most a tenth is added to a wait, and the core is free for
the other ranks and for the computation. No clock is read here: all times are seconds of one.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Pauses that are a share of the time since anything moved, within limits, in seconds."""

    shortest: float
    longest: float
    share: float

    def pause(self, idle: float, previous: float = math.inf, moved_much: bool = False) -> float:
        """Return seconds of the next pause after `idle` ones, at most twice the previous.

        At most half as long where the poll since that has moved much, and more may come.
        """
        pause = min(max(self.share * idle, self.shortest), self.longest)
        if moved_much:
            return max(min(pause, previous) / 2, self.shortest)
        return min(pause, 2 * previous)


# Of a thread that waits for an operation.
WAITING = Backoff(shortest=20e-6, longest=1e-3, share=1 / 10)
# Of the helper thread. A poll costs some microseconds and a change of threads; what comes meanwhile
# waits in the system's buffers, which hold more than comes in that time.
BACKGROUND = Backoff(shortest=20e-6, longest=20e-3, share=1 / 4)
# Of the helper thread while nobody waits to hear that a message is complete.
QUIET = Backoff(shortest=1e-3, longest=20e-3, share=1 / 2)
# Polls that take more have moved much in any case.
MUCH_SECONDS = 200e-6

_SPIN_SECONDS = 100e-6  # polling at full speed since the last movement, before the first sleep
_MOVED_SECONDS = 5e-6


class Waiting:
    """The pauses of a thread that waits for one operation.

    A poll that takes longer than 5 us, and than twice the fastest of all, has moved data: poll
    again at once. One that follows a sleep says nothing, since the caches are cold and sockets are
    looked at; the next one does. `fastest` is the seconds of the fastest poll so far.
    """

    def __init__(self, now: float, fastest: float) -> None:
        self.fastest = fastest
        self._moved, self._gap, self._slept = now, 0.0, False

    def pause(self, begin: float, end: float, completed: float) -> float | None:
        """Return seconds to sleep before a poll; 0: let other threads run; None: poll at once.

        The last poll was from `begin` to `end`; a message was last complete at `completed`.
        """
        last, seconds = self._moved, end - begin
        self.fastest = min(self.fastest, seconds)
        is_long = seconds > max(_MOVED_SECONDS, 2 * self.fastest)
        if seconds > MUCH_SECONDS or (is_long and not self._slept):
            self._moved = end
        self._moved = max(self._moved, completed)
        if self._moved - last > _SPIN_SECONDS:
            self._gap = self._moved - last
        if is_long and self._slept:
            self._slept = False
            return None
        idle = end - self._moved
        if idle < _SPIN_SECONDS and self._gap < WAITING.longest:
            self._slept = False
            return 0.0
        self._slept = True
        return WAITING.pause(max(idle, self._gap))
