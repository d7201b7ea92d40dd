"""An operation under way: its messages, its steps, and how it fails."""

import contextlib
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass

from mpi4py import MPI

from pcode.mpi_backend.library import MPIError
from pcode.mpi_backend.world import World


@dataclass(slots=True)
class Transfer:
    """One MPI message under way.

    Attributes:
        peer: world rank of the other side, or None for a receive from any rank.
        source: after a receive, the sender's rank in its communicator.
    """

    request: MPI.Request
    peer: int | None
    num_bytes: int
    receiving: bool
    source: int = -1

    def test(self, world: World) -> bool:
        """Return whether it is complete; raises an MPIError where it failed or has another size."""
        status = MPI.Status() if self.receiving else None
        try:
            if not self.request.Test(status):
                return False
        except MPI.Exception as error:
            raise world.translate(error, self.peer) from error
        if status is not None:
            self.source = status.Get_source()
            received = status.Get_count(MPI.BYTE)
            if received != self.num_bytes:
                reason = f"received {received} bytes where {self.num_bytes} were expected"
                raise MPIError(reason, rank=world.rank, peer=self.peer)
        return True


# What an operation does: starts transfers, yields them, and goes on when all are complete.
Steps = Generator[list[Transfer], None, None]


class Operation:
    """Steps that are driven by polls.

    Of an operation that failed the world keeps a reference, and so its tensors in memory, because
    MPI may still write to them.

    Args:
        name: for errors, such as "recv".
        steps: the work; its first part runs now, and raises an MPIError where it cannot start.
        limit: seconds that a wait may take, from its call; one for a future counts from now.
        one_step: whether it is only messages: a poll of any operation moves these.

    Attributes:
        started, moved: when it began, and when a message was last complete.
        done: whether it has ended, with or without an `error`.
        ended: set at the end, where somebody waits for it without polling.
        source: after a receive, the sender's rank in the group.
    """

    def __init__(
        self, name: str, steps: Steps, *, world: World, limit: float, one_step: bool
    ) -> None:
        world.raise_fault()
        self.name, self.limit, self.world = name, limit, world
        self.started = self.moved = time.perf_counter()
        self.done = False
        self.error: Exception | None = None
        self.ended: threading.Event | None = None
        self.source = -1
        self._steps, self._one_step = steps, one_step
        self._lock = threading.Lock()
        self._transfers: list[Transfer] = []
        try:
            self._next_step()
        except MPIError as error:
            world.report(error)
            raise

    def _next_step(self) -> None:
        try:
            self._transfers = next(self._steps)
        except StopIteration:
            self.done = True
        except MPI.Exception as error:
            raise self.world.translate(error) from error

    def needs_polling(self) -> bool:
        """Return whether only its own polls move it on or complete what others wait for."""
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
                    self.source = transfer.source
                    self._transfers.pop()
                self._next_step()
        except Exception as error:  # handed to whoever waits
            self._end_with(error)
        finally:
            self._lock.release()
        if isinstance(self.error, MPIError):
            self.world.report(self.error)
        self.signal()
        return True

    def fail(self, error: MPIError) -> None:
        """End it with this error, unless it has ended."""
        with self._lock:
            if self.done:
                return
            self._end_with(error)
        self.signal()

    def _end_with(self, error: Exception) -> None:
        self.error, self.done = error, True
        self.world.failed_operations.append(self)

    def fail_as_reported(self, fault: MPIError) -> None:
        """End it because another rank, or another operation, has reported an error."""
        peer = fault.peer
        if peer is None:
            with contextlib.suppress(MPIError):  # what is wrong has been reported already
                peer = _only(_peers(self._missing()))
        error = MPIError(
            fault.reason, rank=self.world.rank, peer=peer, reported_by_peer=fault.reported_by_peer
        )
        self.fail(error)

    def expire(self, limit: float) -> bool:
        """Fail after this time limit, and report it, unless all transfers are complete by now."""
        try:
            missing = self._missing()
        except MPIError as error:
            failure = error
        else:
            if not missing:
                return False
            reason = "no message" if missing[0].receiving else "message not taken"
            reason += f" within the timeout of {limit:g} s"
            peers = _peers(missing)
            if len(peers) > 1:
                reason += f" (ranks {', '.join(map(str, peers))})"
            reason += f" ({self.name}, {sum(transfer.num_bytes for transfer in missing)} bytes)"
            failure = MPIError(reason, rank=self.world.rank, peer=_only(peers))
        self.world.report(failure)
        self.fail(failure)
        return True

    def _missing(self) -> list[Transfer]:
        """Return the transfers that are not complete: incoming ones or, without one, the others."""
        with self._lock:
            self._transfers = [
                transfer for transfer in self._transfers if not transfer.test(self.world)
            ]
            return [each for each in self._transfers if each.receiving] or self._transfers

    def signal(self) -> None:
        """Let those go on that wait without polling."""
        if self.ended is not None:
            self.ended.set()


def _peers(transfers: list[Transfer]) -> list[int]:
    """Return the world ranks on the other side of these transfers, where they are known."""
    return sorted({transfer.peer for transfer in transfers if transfer.peer is not None})


def _only(peers: list[int]) -> int | None:
    """Return the peer that an error can name: the only one, or None."""
    return peers[0] if len(peers) == 1 else None
