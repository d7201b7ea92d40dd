"""One operation of torch.distributed over MPI: its messages, its steps and how it is waited for."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator
from datetime import timedelta

import torch
from mpi4py import MPI
from torch.distributed import Work

from pcode.communication.mpi_future import Callbacks, OrderedFuture
from pcode.communication.mpi_progress import PROGRESS
from pcode.communication.mpi_world import World
from pcode.utils.errors import CommunicationError


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

    def test(self, world: World) -> bool:
        """Whether it is through; after a receive, `source` is the sender in its communicator.

        Raises:
            CommunicationError: MPI reports an error, or the message has another size.
        """
        if not self.receiving:
            return self._test(world, None)
        status = MPI.Status()
        if not self._test(world, status):
            return False
        self.source = status.Get_source()
        received = status.Get_count(MPI.BYTE)
        if received != self.num_bytes:
            raise CommunicationError(
                f"received {received} bytes where {self.num_bytes} were expected",
                rank=world.rank,
                peer=self.peer,
            )
        return True

    def _test(self, world: World, status: MPI.Status | None) -> bool:
        try:
            return bool(self.request.Test(status))
        except MPI.Exception as error:
            raise world.translate(error, self.peer) from error


def _peers(transfers: list[Transfer]) -> list[int]:
    """The world ranks on the other side of these transfers, where they are known."""
    return sorted({transfer.peer for transfer in transfers if transfer.peer is not None})


def _only(peers: list[int]) -> int | None:
    """The peer that an error can name: the only one, or None."""
    return peers[0] if len(peers) == 1 else None


# What an operation does: starts transfers, yields them, and goes on when all are through.
Steps = Generator[list[Transfer], None, None]


class Operation(Work):
    """A torch.distributed.Work whose steps are driven by tests.

    Args:
        name: for errors, such as "recv".
        steps: the work; its first part runs now.
        world: of the group.
        result: the tensors that a future of this operation holds.
        limit: seconds that wait() waits, from its call; a future counts from now.
        background: whether the helper thread moves it on while nobody waits.
        one_step: whether it is only messages: a test of any operation moves these.
        callbacks: where its future is completed.
    """

    def __init__(
        self,
        name: str,
        steps: Steps,
        result: list[torch.Tensor],
        *,
        world: World,
        limit: float,
        background: bool,
        one_step: bool,
        callbacks: Callbacks,
    ) -> None:
        super().__init__()
        world.raise_fault()
        self.name, self.limit, self.world = name, limit, world
        self.ended: threading.Event | None = None
        self._background, self._callbacks = background, callbacks
        self._one_step = one_step
        self.started = self.moved = time.perf_counter()
        self._steps, self._result = steps, result
        self._lock = threading.Lock()
        self.done = False
        self._error: Exception | None = None
        self._future: OrderedFuture | None = None
        self._source = -1
        self._transfers: list[Transfer] = []
        try:
            self._next_step()
        except CommunicationError as error:
            world.report(error)
            raise
        if background and not self.done:
            PROGRESS.add(self)

    def _next_step(self) -> None:
        try:
            transfers = next(self._steps, None)
        except MPI.Exception as error:
            raise self.world.translate(error) from error
        if transfers is None:
            self.done = True
        else:
            self._transfers = transfers

    def needs_polling(self) -> bool:
        """Whether only its own tests move it on or complete what others wait for."""
        return self.ended is not None or not self._one_step

    def poll(self) -> bool:
        """Move on as far as possible without waiting; return whether it has ended."""
        if self.done or not self._lock.acquire(blocking=False):
            return self.done
        try:
            while not self.done:
                while self._transfers:
                    transfer = self._transfers[-1]
                    if not transfer.test(self.world):
                        return False
                    self.moved = time.perf_counter()
                    self._source = transfer.source
                    self._transfers.pop()
                self._next_step()
        except Exception as error:  # handed to whoever waits
            self._error, self.done = error, True
            PROGRESS.abandoned.append(self)
        finally:
            self._lock.release()
        if isinstance(self._error, CommunicationError):
            self.world.report(self._error)
        self._signal()
        return True

    def fail(self, error: CommunicationError) -> None:
        """End it with this error unless it has ended; its memory stays allocated."""
        with self._lock:
            if self.done:
                return
            self._error, self.done = error, True
            PROGRESS.abandoned.append(self)
        self._signal()

    def late(self, limit: float) -> CommunicationError | None:
        """The error of a time limit, from the transfers that are not through; None without one."""
        try:
            missing = self._missing()
        except CommunicationError as error:
            return error
        if not missing:
            return None
        peers = _peers(missing)
        num_bytes = sum(transfer.num_bytes for transfer in missing)
        reason = f"no message within {limit:g} s"
        if not missing[0].receiving:
            reason = f"message not taken within {limit:g} s"
        if len(peers) > 1:
            reason += f" (ranks {', '.join(map(str, peers))})"
        return CommunicationError(
            f"{reason} ({self.name}, {num_bytes} bytes)",
            rank=self.world.rank,
            peer=_only(peers),
        )

    def fail_as_told(self, notice: CommunicationError) -> None:
        """End it because another rank, or another operation, has reported an error."""
        peer = notice.peer
        if peer is None:
            with contextlib.suppress(CommunicationError):  # what is wrong has been told already
                peer = _only(_peers(self._missing()))
        self.fail(
            CommunicationError(notice.reason, rank=self.world.rank, peer=peer, told=notice.told)
        )

    def _missing(self) -> list[Transfer]:
        """The transfers that are not through: those that come in, or, without one, the others.

        Raises:
            CommunicationError: one of them has failed.
        """
        with self._lock:
            self._transfers = [
                transfer for transfer in self._transfers if not transfer.test(self.world)
            ]
            return [each for each in self._transfers if each.receiving] or self._transfers

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
        PROGRESS.hurry()
        if self.done:
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
