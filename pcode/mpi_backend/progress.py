"""The progress engine: operations under way, moved on by who waits for them or by one thread.

MPI moves data only inside its own calls and waits by polling at full speed. Here every message is
nonblocking, and who waits polls with pauses (see backoff). Operations that nobody waits for yet
(isend, irecv, async_op=True) are moved on by one helper thread, which takes as little of the
computation's time as it can: it sleeps a share of the time since a message was complete, less while
its polls move much, and is parked while there are none.
"""

import os
import threading
import time
from collections import deque

from mpi4py import MPI

from pcode.mpi_backend.backoff import BACKGROUND, MUCH_SECONDS, QUIET, WAITING, Waiting
from pcode.mpi_backend.operation import Operation

# How long the helper thread only lets data move, where nobody waits to hear that a message is
# complete: polling each operation costs several times the call of MPI, since the computation has
# taken Python's own code out of the core's cache.
QUIET_SECONDS = 50e-3
LINGER_SECONDS = 0.002  # the helper thread parks when there was nothing to do for so long


class Progress:
    """What this process has under way, and its helper thread."""

    def __init__(self) -> None:
        # Nothing is ever sent there: to look for a message moves those of all communicators.
        self.idle_comm = MPI.COMM_SELF
        self._operations: deque[Operation] = deque()
        self._driven: set[int] = set()  # ids of operations that a thread waits for
        self._wake = threading.Event()
        self._parked = False
        self._stopping = False
        self._quiet = False
        self._fastest_poll = MUCH_SECONDS
        self._thread = threading.Thread(target=self._run, name="mpi-progress", daemon=True)
        self._thread.start()

    def add(self, operation: Operation) -> None:
        """Let the helper thread move this operation on."""
        self._operations.append(operation)
        if operation.needs_polling():
            self.hurry()
        if self._parked:
            self._wake.set()

    def hurry(self) -> None:
        """Poll the operations themselves: somebody waits to hear that one has ended."""
        self._quiet = False

    def stop(self) -> None:
        """End the helper thread."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def drive(self, operation: Operation, limit: float) -> None:
        """Poll until the operation has ended; after `limit` seconds, or a notice, it fails."""
        self._driven.add(id(operation))
        try:
            self._drive(operation, limit)
        finally:
            self._driven.discard(id(operation))

    def _drive(self, operation: Operation, limit: float) -> None:
        begin = time.perf_counter()
        deadline, waiting = begin + limit, Waiting(begin, self._fastest_poll)
        while not operation.poll():
            end = time.perf_counter()
            if end > deadline and operation.expire(limit):
                return
            operation.world.poll_notices(end)
            if operation.world.fault is not None:
                operation.fail_as_reported(operation.world.fault)
                return
            pause = waiting.pause(begin, end, operation.moved)
            self._fastest_poll = waiting.fastest
            if pause is not None:
                if pause:
                    time.sleep(pause)
                else:
                    os.sched_yield()  # to another rank that is ready, if there is one
            begin = time.perf_counter()

    def _run(self) -> None:
        pause, busy = BACKGROUND.shortest, time.perf_counter()
        while not self._stopping:
            now, before = time.perf_counter(), time.thread_time()
            has_moved = self._poll_all(now)
            moved_much = time.thread_time() - before > MUCH_SECONDS
            self._quiet = True  # before one looks: hurry() of one that comes meanwhile prevails
            operations = list(self._operations)
            if not operations or any(each.needs_polling() for each in operations):
                self._quiet = False
            if operations:
                operations[-1].world.poll_notices(now)  # those of an earlier world have all ended
                busy = now
            elif now - busy > LINGER_SECONDS:
                self._park()
                busy = time.perf_counter()
            if self._quiet and not self._driven:
                self._let_move(max(each.moved for each in operations))
                pause = BACKGROUND.shortest
                continue
            last = max((each.moved for each in operations), default=busy)
            if has_moved:
                pause = BACKGROUND.shortest
            else:
                pause = BACKGROUND.pause(now - last, pause, moved_much)
            # Who waits for an operation moves the messages of all; two would be in the way.
            time.sleep(max(pause, WAITING.longest) if self._driven else pause)

    def _let_move(self, last: float) -> None:
        """Move, for a while after `last`, what needs no more than a call of MPI now and then."""
        now, moved_much = time.perf_counter(), False
        end = now + min(max(now - last, QUIET.shortest), QUIET_SECONDS)
        while self._quiet and not self._driven and now < end:
            time.sleep(QUIET.pause(now - last, moved_much=moved_much))
            before = time.thread_time()
            self.idle_comm.Iprobe()
            moved_much = time.thread_time() - before > MUCH_SECONDS
            now = time.perf_counter()

    def _poll_all(self, now: float) -> bool:
        """Move the operations on; return whether anything has moved."""
        has_moved = False
        has_polled = bool(self._driven)
        for _ in range(len(self._operations)):
            operation = self._operations.popleft()
            fault = operation.world.fault
            if fault is not None and not operation.done:
                operation.fail_as_reported(fault)
            if operation.done:
                continue
            self._operations.append(operation)
            # Whoever has just started one is likely to wait for it at once.
            is_young = now - operation.started < WAITING.longest
            is_driven = id(operation) in self._driven
            if is_young or is_driven or (has_polled and not operation.needs_polling()):
                continue
            has_moved |= operation.poll()
            has_polled = True
            if operation.ended is not None and now > operation.started + operation.limit:
                operation.expire(operation.limit)
        return has_moved

    def _park(self) -> None:
        self._wake.clear()
        self._parked = True
        # An operation added before _parked was set has not set _wake: look again.
        if not self._operations and not self._stopping:
            self._wake.wait()
        self._parked = False
