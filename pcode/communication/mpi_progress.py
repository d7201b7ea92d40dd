"""Operations under way over MPI: waiting with time limits, progress, and telling of faults.

MPI moves data only inside its own calls and waits by polling at full speed. Here every message is
nonblocking, and who waits tests briefly at full speed (small messages take microseconds), then
sleeps a tenth of the time since anything moved: at most a tenth is added to a wait, and the core
is free for the other ranks and for the computation. Operations that nobody waits for yet (isend,
irecv, async_op=True) are moved on by one helper thread that tests and sleeps in the same way and
is parked while there are none.

A fault is final for the process: the rank that notices it (time limit, error of MPI) tells all
ranks with a message on a communicator of its own, and whoever waits, or starts an operation
later, raises a CommunicationError as well. Memory of an operation that failed stays allocated,
because MPI may still write to it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, TypeVar

from mpi4py import MPI

from pcode.errors import CommunicationError

if TYPE_CHECKING:
    from pcode.communication.mpi_work import Operation

SPIN_SECONDS = 100e-6  # full-speed testing since the last movement, before the first sleep
SHORTEST_SLEEP, LONGEST_SLEEP = 20e-6, 1e-3
MOVED_SECONDS = 5e-6  # a test that takes longer than this has moved data: test again at once
NOTICE_SECONDS = 0.1  # between looks for other ranks' notices
LINGER_SECONDS = 0.002  # the helper thread parks when there was nothing to do for so long
FAULT, LEAVING = 1, 2  # tags of notices
MAX_NOTICE_BYTES = 2000

Result = TypeVar("Result")


class Progress:
    """What this process has under way, its helper thread, and its fault, if there was one."""

    def __init__(self) -> None:
        self.rank = MPI.COMM_WORLD.Get_rank()
        self.fault: CommunicationError | None = None
        self.thread: threading.Thread | None = None
        self.abandoned: list[Operation] = []
        self._operations: deque[Operation] = deque()
        self._driven: set[int] = set()  # ids of operations that a thread waits for
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._parked = False
        self._stopping = False
        self._notices: MPI.Intracomm | None = None
        self._sent: list[tuple[MPI.Request, bytes]] = []
        self._leaving: set[int] = set()
        self._looked = 0.0
        self._deaf = False
        atexit.register(self._at_exit)

    def start(self, limit: float) -> None:
        """Open the channel for notices; collective over all ranks, once per process.

        Raises:
            CommunicationError: not all ranks have called it within `limit` seconds.
        """
        if self._notices is None:
            self._notices = within(limit, "start of MPI", MPI.COMM_WORLD.Dup)

    def raise_fault(self) -> None:
        """Raise the fault of this process, if there was one."""
        if self.fault is not None:
            raise self.fault

    def add(self, operation: Operation) -> None:
        """Let the helper thread move this operation on."""
        self._operations.append(operation)
        if self.thread is None:
            with self._lock:
                if self.thread is None:
                    self.thread = threading.Thread(
                        target=self._run, name="mpi-progress", daemon=True
                    )
                    self.thread.start()
        if self._parked:
            self._wake.set()

    def drive(self, operation: Operation, limit: float) -> None:
        """Test until the operation has ended; after `limit` seconds, or a notice, it fails."""
        self._driven.add(id(operation))
        try:
            self._drive(operation, limit)
        finally:
            self._driven.discard(id(operation))

    def _drive(self, operation: Operation, limit: float) -> None:
        moved = before = time.perf_counter()
        deadline = before + limit
        while not operation.poll():
            now = time.perf_counter()
            if now > deadline and self._expired(operation, limit):
                return
            if now - before > MOVED_SECONDS:
                moved = now
            idle = now - max(moved, operation.moved)
            if idle < SPIN_SECONDS:
                os.sched_yield()  # to another rank that is ready, if there is one
            else:
                self.look(now)
                if self.fault is not None:
                    operation.fail_as_told(self.fault)
                    return
                time.sleep(min(max(idle / 10, SHORTEST_SLEEP), LONGEST_SLEEP))
            before = time.perf_counter()

    def _expired(self, operation: Operation, limit: float) -> bool:
        """Whether it is late, which is reported then."""
        error = operation.late(limit)
        if error is None:
            return False
        self.report(error)
        operation.fail(error)
        return True

    def _run(self) -> None:
        pause, busy = SHORTEST_SLEEP, time.perf_counter()
        while not self._stopping:
            now = time.perf_counter()
            moved = self._poll_all(now)
            if self._operations:
                self.look(now)
                busy = now
            elif now - busy > LINGER_SECONDS:
                self._park()
                busy = time.perf_counter()
            pause = SHORTEST_SLEEP if moved else min(2 * pause, LONGEST_SLEEP)
            # Who waits for an operation moves the messages of all; two would be in the way.
            time.sleep(LONGEST_SLEEP if self._driven else pause)

    def _poll_all(self, now: float) -> bool:
        """Move the operations on; return whether anything has moved."""
        moved = False
        tested = bool(self._driven)
        for _ in range(len(self._operations)):
            operation = self._operations.popleft()
            if operation.done or (self.fault is not None and operation.fail_as_told(self.fault)):
                continue
            self._operations.append(operation)
            # Whoever has just started one is likely to wait for it at once.
            young = now - operation.started < LONGEST_SLEEP
            driven = id(operation) in self._driven
            if young or driven or (tested and not operation.needs_polling()):
                continue
            before = time.perf_counter()
            moved |= operation.poll() or time.perf_counter() - before > MOVED_SECONDS
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

    def report(self, error: CommunicationError) -> None:
        """Make this the fault of the process and tell all ranks, unless there is one already."""
        if self._set_fault(error):
            self._tell(FAULT, str(error).encode()[:MAX_NOTICE_BYTES])

    def _tell(self, tag: int, text: bytes) -> None:
        if self._notices is None:  # the start itself has failed
            return
        for peer in range(self._notices.Get_size()):
            if peer != self.rank:
                with contextlib.suppress(MPI.Exception):  # a dead rank cannot be told
                    request = self._notices.Isend([text, MPI.BYTE], dest=peer, tag=tag)
                    self._sent.append((request, text))

    def look(self, now: float) -> None:
        """Take other ranks' notices, if the last look is long enough ago."""
        if now - self._looked < NOTICE_SECONDS or self._notices is None or self._deaf:
            return
        self._looked = now
        status = MPI.Status()
        try:
            # Matched probes: two threads may look at the same time.
            while (message := self._notices.Improbe(status=status)) is not None:
                text = bytearray(status.Get_count(MPI.BYTE))
                message.Recv([text, MPI.BYTE])
                self._take(status.Get_source(), status.Get_tag(), text.decode(errors="replace"))
        except MPI.Exception as error:
            # With fault tolerance (mpirun --with-ft ulfm) a rank's death comes to light here.
            self._deaf = True
            dead = MPI.Group.Translate_ranks(self._notices.Get_failed())
            reason = f"{error} (of ranks {', '.join(map(str, dead))})" if dead else str(error)
            peer = dead[0] if len(dead) == 1 else None
            self._set_fault(CommunicationError(reason, rank=self.rank, peer=peer))

    def _take(self, source: int, tag: int, text: str) -> None:
        if tag == LEAVING:
            self._leaving.add(source)
        else:
            self._set_fault(CommunicationError(f"rank {source} reported: {text}", rank=self.rank))

    def _set_fault(self, error: CommunicationError) -> bool:
        """Make this the fault of the process; return whether there was none before."""
        with self._lock:
            if self.fault is not None:
                return False
            self.fault = error
        return True

    def abort(self, status: int, grace: float) -> NoReturn:
        """End all ranks of the job; does not return (see pcode.communication.mpi.abort)."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._tell(LEAVING, b"")
        if self._notices is not None:
            others = self._notices.Get_size() - 1
            deadline = time.perf_counter() + grace
            while len(self._leaving) < others and time.perf_counter() < deadline:
                self._looked = 0.0
                self.look(time.perf_counter())
                time.sleep(LONGEST_SLEEP)
        MPI.COMM_WORLD.Abort(status)
        os._exit(status)  # should MPI have returned

    def _at_exit(self) -> None:
        self._stopping = True
        self._wake.set()
        if self.thread is not None:
            self.thread.join()
        if self.fault is not None:
            # MPI_Finalize would wait for the messages that never came.
            self.abort(1, grace=2.0)


def within(limit: float, what: str, call: Callable[[], Result]) -> Result:
    """The result of a blocking call of MPI, made in a thread so that a time limit holds.

    Raises:
        CommunicationError: it has not returned within `limit` seconds.
    """
    results: list[Result] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:  # raised below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="mpi-call", daemon=True)
    thread.start()
    thread.join(limit)
    if errors:
        raise errors[0]
    if not results:
        error = CommunicationError(
            f"not all ranks have come within {limit:g} s ({what})", rank=PROGRESS.rank
        )
        PROGRESS.report(error)
        raise error
    return results[0]


PROGRESS = Progress()
