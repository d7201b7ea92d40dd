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
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import TypeVar

import torch
from mpi4py import MPI
from torch.distributed import Work

from pcode.communication.mpi_future import Callbacks, OrderedFuture
from pcode.errors import CommunicationError

SPIN_SECONDS = 100e-6  # full-speed testing since the last movement, before the first sleep
SHORTEST_SLEEP, LONGEST_SLEEP = 20e-6, 1e-3
MOVED_SECONDS = 5e-6  # a test that takes longer than this has moved data: test again at once
NOTICE_SECONDS = 0.1  # between looks for other ranks' notices
LINGER_SECONDS = 0.05  # the helper thread parks when there was nothing to do for so long
FAULT, LEAVING = 1, 2  # tags of notices
MAX_NOTICE_BYTES = 2000

Result = TypeVar("Result")


class Transfer:
    """One MPI message under way.

    Args:
        request: of MPI.
        peer: world rank of the other side, or None for a receive from any rank.
        num_bytes: its size.
        receiving: whether it comes in.
    """

    __slots__ = ("num_bytes", "peer", "receiving", "request", "source")

    def __init__(
        self, request: MPI.Request, peer: int | None, num_bytes: int, receiving: bool
    ) -> None:
        self.request, self.peer = request, peer
        self.num_bytes, self.receiving = num_bytes, receiving
        self.source = -1

    def test(self, rank: int) -> bool:
        """Whether it is through; after a receive, `source` is the sender in its communicator.

        Raises:
            CommunicationError: MPI reports an error, or the message has another size.
        """
        if not self.receiving:
            return self._test(rank, None)
        status = MPI.Status()
        if not self._test(rank, status):
            return False
        self.source = status.Get_source()
        received = status.Get_count(MPI.BYTE)
        if received != self.num_bytes:
            raise CommunicationError(
                f"received {received} bytes where {self.num_bytes} were expected",
                rank=rank,
                peer=self.peer,
            )
        return True

    def _test(self, rank: int, status: MPI.Status | None) -> bool:
        try:
            return bool(self.request.Test(status))
        except MPI.Exception as error:
            raise CommunicationError(str(error), rank=rank, peer=self.peer) from error


# What an operation does: starts transfers, yields them, and goes on when all are through.
Steps = Generator[list[Transfer], None, None]


class Operation(Work):
    """A torch.distributed.Work whose steps are driven by tests.

    Args:
        name: for errors, such as "recv".
        steps: the work; its first part runs now.
        result: the tensors that a future of this operation holds.
        limit: seconds that wait() waits, from its call; a future counts from now.
        background: whether the helper thread moves it on while nobody waits.
        callbacks: where its future is completed.
    """

    def __init__(
        self,
        name: str,
        steps: Steps,
        result: list[torch.Tensor],
        *,
        limit: float,
        background: bool,
        callbacks: Callbacks,
    ) -> None:
        super().__init__()
        PROGRESS.raise_fault()
        self.name, self.limit = name, limit
        self.ended: threading.Event | None = None
        self._background, self._callbacks = background, callbacks
        self.started = self.moved = time.perf_counter()
        self._steps, self._result = steps, result
        self._lock = threading.Lock()
        self._done = False
        self._error: Exception | None = None
        self._future: OrderedFuture | None = None
        self._source = -1
        self._transfers: list[Transfer] = []
        try:
            self._next_step()
        except CommunicationError as error:
            PROGRESS.report(error)
            raise
        if background and not self._done:
            PROGRESS.add(self)

    def _next_step(self) -> None:
        try:
            transfers = next(self._steps, None)
        except MPI.Exception as error:
            raise CommunicationError(f"{self.name}: {error}", rank=PROGRESS.rank) from error
        if transfers is None:
            self._done = True
        else:
            self._transfers = transfers

    def poll(self) -> bool:
        """Move on as far as possible without waiting; return whether it has ended."""
        if self._done or not self._lock.acquire(blocking=False):
            return self._done
        try:
            while not self._done:
                while self._transfers:
                    transfer = self._transfers[-1]
                    if not transfer.test(PROGRESS.rank):
                        return False
                    self.moved = time.perf_counter()
                    self._source = transfer.source
                    self._transfers.pop()
                self._next_step()
        except Exception as error:  # handed to whoever waits
            self._error, self._done = error, True
            PROGRESS.abandoned.append(self)
        finally:
            self._lock.release()
        if isinstance(self._error, CommunicationError):
            PROGRESS.report(self._error)
        self._signal()
        return True

    def fail(self, error: CommunicationError) -> None:
        """End it with this error unless it has ended; its memory stays allocated."""
        with self._lock:
            if self._done:
                return
            self._error, self._done = error, True
            PROGRESS.abandoned.append(self)
        self._signal()

    def late(self, limit: float) -> CommunicationError:
        """The error of a time limit, from the transfers that are not through."""
        transfers = list(self._transfers)
        incoming = [transfer for transfer in transfers if transfer.receiving]
        missing = incoming or transfers
        peers = sorted({transfer.peer for transfer in missing if transfer.peer is not None})
        num_bytes = sum(transfer.num_bytes for transfer in missing)
        reason = f"no message within {limit:g} s"
        if not incoming:
            reason = f"message not taken within {limit:g} s"
        if len(peers) > 1:
            reason += f" (ranks {', '.join(map(str, peers))})"
        return CommunicationError(
            f"{reason} ({self.name}, {num_bytes} bytes)",
            rank=PROGRESS.rank,
            peer=peers[0] if len(peers) == 1 else None,
        )

    def told(self, notice: CommunicationError) -> CommunicationError:
        """The error when another rank has reported one while this one waits."""
        peers = {transfer.peer for transfer in list(self._transfers)}
        return CommunicationError(
            notice.reason, rank=PROGRESS.rank, peer=peers.pop() if len(peers) == 1 else None
        )

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Return True when the operation has ended.

        Args:
            timeout: instead of the group's time limit; zero or less stands for the latter.

        Raises:
            CommunicationError: time limit, error of MPI, or another rank reported one.
        """
        if not self.poll():
            seconds = timeout.total_seconds() if timeout is not None else 0.0
            PROGRESS.drive(self, seconds if seconds > 0 else self.limit)
        if self._error is not None:
            raise self._error
        return True

    def get_future(self) -> OrderedFuture:
        """A future of the result."""
        with self._lock:
            if self._future is not None:
                return self._future
            self._future, self.ended = OrderedFuture(self._callbacks), threading.Event()
        self._callbacks.add(self._resolve)
        if self._done:
            self._signal()
        elif not self._background:
            PROGRESS.add(self)
        return self._future

    def _signal(self) -> None:
        if self.ended is not None:
            self.ended.set()

    def _resolve(self) -> None:
        assert self._future is not None
        assert self.ended is not None
        self.ended.wait()
        if self._error is None:
            self._future.set_result(self._result)
        else:
            self._future.set_exception(self._error)

    def is_completed(self) -> bool:
        """Whether it has ended, with or without an error."""
        return self.poll()

    def is_success(self) -> bool:
        """Whether it has ended without an error."""
        return self.poll() and self._error is None

    def exception(self) -> Exception | None:
        """Its error, if it has ended with one."""
        return self._error

    def result(self) -> list[torch.Tensor]:
        """The tensors that it fills."""
        return self._result

    def synchronize(self) -> None:
        """Wait for it."""
        self.wait()

    def source_rank(self) -> int:
        """After a receive, the sender's rank in the group."""
        return self._source

    _source_rank = source_rank


class Progress:
    """What this process has under way, its helper thread, and its fault, if there was one."""

    def __init__(self) -> None:
        self.rank = MPI.COMM_WORLD.Get_rank()
        self.fault: CommunicationError | None = None
        self.thread: threading.Thread | None = None
        self.abandoned: list[Operation] = []
        self._operations: deque[Operation] = deque()
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._parked = False
        self._stopping = False
        self._notices: MPI.Intracomm | None = None
        self._sent: list[tuple[MPI.Request, bytes]] = []
        self._leaving: set[int] = set()
        self._looked = 0.0
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
        deadline = time.perf_counter() + limit
        before = time.perf_counter()
        while not operation.poll():
            now = time.perf_counter()
            if now > deadline:
                error = operation.late(limit)
                self.report(error)
                operation.fail(error)
                return
            idle = now - operation.moved
            if now - before < MOVED_SECONDS and idle > SPIN_SECONDS:
                self.look(now)
                if self.fault is not None:
                    operation.fail(operation.told(self.fault))
                    return
                time.sleep(min(max(idle / 10, SHORTEST_SLEEP), LONGEST_SLEEP))
                now = time.perf_counter()
            before = now

    def _run(self) -> None:
        pause, busy = SHORTEST_SLEEP, time.perf_counter()
        while not self._stopping:
            now = time.perf_counter()
            moved = False
            for _ in range(len(self._operations)):
                operation = self._operations.popleft()
                before = time.perf_counter()
                if operation.poll():
                    moved = True
                    continue
                moved |= time.perf_counter() - before > MOVED_SECONDS
                if self.fault is not None:
                    operation.fail(operation.told(self.fault))
                elif operation.ended is not None and now > operation.started + operation.limit:
                    error = operation.late(operation.limit)
                    self.report(error)
                    operation.fail(error)
                else:
                    self._operations.append(operation)
            if self._operations:
                self.look(now)
                busy = now
            elif now - busy > LINGER_SECONDS:
                self._park()
                busy = time.perf_counter()
            pause = SHORTEST_SLEEP if moved else min(2 * pause, LONGEST_SLEEP)
            time.sleep(pause)

    def _park(self) -> None:
        self._wake.clear()
        self._parked = True
        # An operation added before _parked was set has not set _wake: look again.
        if not self._operations and not self._stopping:
            self._wake.wait()
        self._parked = False

    def report(self, error: CommunicationError) -> None:
        """Make this the fault of the process and tell all ranks, unless there is one already."""
        with self._lock:
            if self.fault is not None:
                return
            self.fault = error
        self._tell(FAULT, str(error).encode()[:MAX_NOTICE_BYTES])

    def _tell(self, tag: int, text: bytes) -> None:
        if self._notices is None:  # the start itself has failed
            return
        for peer in range(self._notices.Get_size()):
            if peer != self.rank:
                request = self._notices.Isend([text, MPI.BYTE], dest=peer, tag=tag)
                self._sent.append((request, text))

    def look(self, now: float) -> None:
        """Take other ranks' notices, if the last look is long enough ago."""
        if now - self._looked < NOTICE_SECONDS or self._notices is None:
            return
        self._looked = now
        status = MPI.Status()
        # A matched probe: two threads may look at the same time.
        while (message := self._notices.Improbe(MPI.ANY_SOURCE, MPI.ANY_TAG, status)) is not None:
            text = bytearray(status.Get_count(MPI.BYTE))
            message.Recv([text, MPI.BYTE])
            source = status.Get_source()
            if status.Get_tag() == LEAVING:
                self._leaving.add(source)
                continue
            with self._lock:
                if self.fault is None:
                    self.fault = CommunicationError(
                        f"rank {source} reported: {text.decode(errors='replace')}", rank=self.rank
                    )

    def abort(self, status: int, grace: float) -> None:
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
