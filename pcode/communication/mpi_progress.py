"""Operations under way over MPI: waiting with time limits, and progress.

MPI moves data only inside its own calls and waits by polling at full speed. Here every message is
nonblocking, and who waits tests briefly at full speed (small messages take microseconds), then
sleeps a tenth of the time since anything moved: at most a tenth is added to a wait, and the core
is free for the other ranks and for the computation. Operations that nobody waits for yet (isend,
irecv, async_op=True) are moved on by one helper thread, which takes as little of the computation's
time as it can: it sleeps a share of the time since a message was through, less while its tests
move much, and is parked while there are none.

After a fault (see mpi_world) whatever is under way in that world fails. Memory of an operation
that failed stays allocated, because MPI may still write to it.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, TypeVar

from mpi4py import MPI

from pcode.communication.mpi_world import World
from pcode.utils.errors import CommunicationError

if TYPE_CHECKING:
    from pcode.communication.mpi_work import Operation

SPIN_SECONDS = 100e-6  # full-speed testing since the last movement, before the first sleep
SHORTEST_SLEEP, LONGEST_SLEEP = 20e-6, 1e-3
# A test that takes longer than this, and than twice the shortest of all, has moved data: test again
# at once. One that follows a sleep says nothing, since the caches are cold and sockets are looked
# at; the next one does.
MOVED_SECONDS = 5e-6
# Of the helper thread's sleeps. A test costs some microseconds and a change of threads; what comes
# meanwhile waits in the system's buffers, which hold more than comes in that time.
LONGEST_PAUSE = 20e-3
PAUSE_SHARE = 1 / 4  # of the time since a message of one of the operations was through
QUIET_SHARE = 1 / 2  # where nobody is to be told when a message is through
MUCH_SECONDS = 200e-6  # tests that take more have moved much in any case, and more may come
# How long it only lets data move, where nobody is to be told: asking each operation costs several
# times the call of MPI, since the computation has taken Python's own code out of the core's cache.
QUIET_SECONDS = 50e-3
LINGER_SECONDS = 0.002  # the helper thread parks when there was nothing to do for so long

# Nothing is ever sent there: to look for a message moves all others.
_SELF = MPI.COMM_SELF

Result = TypeVar("Result")


class Progress:
    """What this process has under way, its helper thread, and the world it belongs to now."""

    def __init__(self) -> None:
        self.world = World(MPI.COMM_WORLD)
        self.thread: threading.Thread | None = None
        self.abandoned: list[Operation] = []
        self._operations: deque[Operation] = deque()
        self._driven: set[int] = set()  # ids of operations that a thread waits for
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._parked = False
        self._stopping = False
        self._quiet = False
        self._shortest_test = MUCH_SECONDS
        atexit.register(self._at_exit)

    def start(self, limit: float) -> None:
        """Open the channel for notices; collective over all ranks, once per process.

        Raises:
            CommunicationError: not all ranks have called it within `limit` seconds.
        """
        if not self.world.is_open:
            self.world.open(within(limit, "start of MPI", self.world.comm.Dup))

    def add(self, operation: Operation) -> None:
        """Let the helper thread move this operation on."""
        self._operations.append(operation)
        if operation.needs_polling():
            self.hurry()
        if self.thread is None:
            with self._lock:
                if self.thread is None:
                    self.thread = threading.Thread(
                        target=self._run, name="mpi-progress", daemon=True
                    )
                    self.thread.start()
        if self._parked:
            self._wake.set()

    def hurry(self) -> None:
        """Somebody is to be told when an operation has ended."""
        self._quiet = False

    def drive(self, operation: Operation, limit: float) -> None:
        """Test until the operation has ended; after `limit` seconds, or a notice, it fails."""
        self._driven.add(id(operation))
        try:
            self._drive(operation, limit)
        finally:
            self._driven.discard(id(operation))

    def _drive(self, operation: Operation, limit: float) -> None:
        moved = before = time.perf_counter()
        deadline, gap, slept = before + limit, 0.0, False
        while not operation.poll():
            now = time.perf_counter()
            if now > deadline and self._expired(operation, limit):
                return
            operation.world.look(now)
            if operation.world.fault is not None:
                operation.fail_as_told(operation.world.fault)
                return
            last, took = moved, now - before
            self._shortest_test = min(self._shortest_test, took)
            is_long = took > max(MOVED_SECONDS, 2 * self._shortest_test)
            if took > MUCH_SECONDS or (is_long and not slept):
                moved = now
            moved = max(moved, operation.moved)
            if moved - last > SPIN_SECONDS:
                gap = moved - last
            idle = now - moved
            if is_long and slept:
                slept = False
            elif idle < SPIN_SECONDS and gap < LONGEST_SLEEP:
                os.sched_yield()  # to another rank that is ready, if there is one
                slept = False
            else:
                time.sleep(min(max(idle / 10, gap / 10, SHORTEST_SLEEP), LONGEST_SLEEP))
                slept = True
            before = time.perf_counter()

    def _expired(self, operation: Operation, limit: float) -> bool:
        """Whether it is late, which is reported then."""
        error = operation.late(limit)
        if error is None:
            return False
        operation.world.report(error)
        operation.fail(error)
        return True

    def _run(self) -> None:
        pause, busy = SHORTEST_SLEEP, time.perf_counter()
        while not self._stopping:
            now, before = time.perf_counter(), time.thread_time()
            moved = self._poll_all(now)
            spent = time.thread_time() - before
            self._quiet = True  # before one looks: hurry() of one that comes meanwhile prevails
            operations = list(self._operations)
            if not operations or any(each.needs_polling() for each in operations):
                self._quiet = False
            if operations:
                self.world.look(now)
                busy = now
            elif now - busy > LINGER_SECONDS:
                self._park()
                busy = time.perf_counter()
            if self._quiet and not self._driven:
                self._let_move(max(each.moved for each in operations))
                pause = SHORTEST_SLEEP
                continue
            if moved:
                pause = SHORTEST_SLEEP
            elif spent > MUCH_SECONDS:
                pause = max(pause / 2, SHORTEST_SLEEP)
            else:
                last = max((each.moved for each in operations), default=busy)
                pause = min(2 * pause, max(PAUSE_SHARE * (now - last), SHORTEST_SLEEP))
                pause = min(pause, LONGEST_PAUSE)
            # Who waits for an operation moves the messages of all; two would be in the way.
            time.sleep(max(pause, LONGEST_SLEEP) if self._driven else pause)

    def _let_move(self, last: float) -> None:
        """For a while, move what needs no more than a call of MPI now and then.

        Args:
            last: when a message was last through.
        """
        now, spent = time.perf_counter(), 0.0
        end = now + min(max(now - last, LONGEST_SLEEP), QUIET_SECONDS)
        while self._quiet and not self._driven and now < end:
            pause = max(LONGEST_SLEEP, min(QUIET_SHARE * (now - last), LONGEST_PAUSE))
            time.sleep(pause / 2 if spent > MUCH_SECONDS else pause)
            before = time.thread_time()
            _SELF.Iprobe()
            spent = time.thread_time() - before
            now = time.perf_counter()

    def _poll_all(self, now: float) -> bool:
        """Move the operations on; return whether anything has moved."""
        moved = False
        tested = bool(self._driven)
        for _ in range(len(self._operations)):
            operation = self._operations.popleft()
            fault = operation.world.fault
            if fault is not None and not operation.done:
                operation.fail_as_told(fault)
            if operation.done:
                continue
            self._operations.append(operation)
            # Whoever has just started one is likely to wait for it at once.
            young = now - operation.started < LONGEST_SLEEP
            driven = id(operation) in self._driven
            if young or driven or (tested and not operation.needs_polling()):
                continue
            moved |= operation.poll()
            tested = True
            if operation.ended is not None and now > operation.started + operation.limit:
                self._expired(operation, operation.limit)
        return moved

    def _park(self) -> None:
        self._wake.clear()
        self._parked = True
        # An operation added before _parked was set has not set _wake: look again.
        if not self._operations and not self._stopping:
            self._wake.wait()
        self._parked = False

    def abort(self, status: int, grace: float) -> NoReturn:
        """End all ranks of the job; does not return (see pcode.communication.mpi.abort)."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.world.leave(grace)
        MPI.COMM_WORLD.Abort(status)
        os._exit(status)  # should MPI have returned

    def _at_exit(self) -> None:
        self._stopping = True
        self._wake.set()
        if self.thread is not None:
            self.thread.join()
        if self.world.fault is not None:
            # MPI_Finalize would wait for the messages that never came.
            self.abort(1, grace=2.0)


def within(limit: float, what: str, call: Callable[[], Result]) -> Result:
    """The result of a blocking call of MPI, made in a thread so that a time limit holds.

    Raises:
        CommunicationError: it has not returned within `limit` seconds, or MPI reports an error.
    """
    world = PROGRESS.world
    results: list[Result] = []
    errors: list[Exception] = []
    failures: list[MPI.Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except MPI.Exception as error:
            failures.append(error)
        except Exception as error:  # raised below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="mpi-call", daemon=True)
    thread.start()
    thread.join(limit)
    if errors:
        raise errors[0]
    if not results:
        if failures:
            error = world.translate(failures[0])
        else:
            reason = f"not all ranks have come within {limit:g} s ({what})"
            error = CommunicationError(reason, rank=world.rank)
        world.report(error)
        raise error
    return results[0]


PROGRESS = Progress()
