"""The ranks that take part, the faults that they report to each other, and who has died.

The rank that notices a fault (time limit, error of MPI) notifies all others by a message on a
communicator of its own; whoever waits, or starts an operation later, raises an MPIError as well. A
fault is final for a world: what goes on afterwards is another world (see Runtime.recover).

Deaths come to light where MPI is fault tolerant (Open MPI's ULFM: `mpirun --with-ft ulfm`): every
rank finds out by itself, and the first of the living is the one whose error is not
`reported_by_peer`. Elsewhere mpirun ends all ranks.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

from mpi4py import MPI

from pcode.mpi_backend.library import MPIError

NOTICE_SECONDS = 0.1  # between polls for other ranks' notices
FAULT, LEAVING = 1, 2  # tags of notices
MAX_NOTICE_BYTES = 2000
_DEATHS = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING)

Result = TypeVar("Result")


class World:
    """The ranks that take part.

    Attributes:
        predecessor: the world of which these are the survivors. MPI may still write to the memory
            of its operations.
        fault: the first error here, or that another rank has reported.
        groups: communicators of process groups; revoked with the world.
        failed_operations: retained, because MPI may still write to their memory.
    """

    def __init__(self, comm: MPI.Intracomm, predecessor: World | None = None) -> None:
        self.comm, self.predecessor = comm, predecessor
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.fault: MPIError | None = None
        self.groups: list[MPI.Intracomm] = []
        self.failed_operations: list[object] = []
        self._notices: MPI.Intracomm | None = None
        self._sent: list[tuple[MPI.Request, bytes]] = []
        self._leaving: set[int] = set()
        self._last_poll = 0.0
        self._is_deaf = False
        self._lock = threading.Lock()

    def open_notices(self, limit: float) -> None:
        """Make the communicator for notices, unless there is one; collective over all ranks."""
        if self._notices is None:
            if self.predecessor is None:
                self._notices = self.call("start of MPI", limit, self.comm.Dup)
            else:
                self._notices = self.call("recovery", limit, self.duplicate)

    def call(self, name: str, limit: float, function: Callable[[], Result]) -> Result:
        """Return the result of a blocking call of MPI, made in a thread so that a time limit holds.

        Raises:
            MPIError: it has not returned within `limit` seconds, or MPI reports an error.
        """
        outcome: futures.Future[Result] = futures.Future()

        def run() -> None:
            try:
                outcome.set_result(function())
            except Exception as error:  # raised below, in the caller's thread
                outcome.set_exception(error)

        threading.Thread(target=run, name="mpi-call", daemon=True).start()
        try:
            return outcome.result(limit)
        except futures.TimeoutError:
            reason = f"not all ranks have come within the timeout of {limit:.3g} s ({name})"
            failure = MPIError(reason, rank=self.rank)
        except MPI.Exception as error:
            failure = self.translate(error)
        self.report(failure)
        raise failure

    def shrink(self) -> MPI.Intracomm:
        """Return a communicator of those that live; called by all of them."""
        comm = self.comm.Shrink()
        assert isinstance(comm, MPI.Intracomm), "as what it comes from"
        return comm

    def duplicate(self) -> MPI.Intracomm:
        """Another communicator of all; collective. A death meanwhile leaves nobody waiting."""
        comm = self.shrink()
        if comm.Get_size() != self.size:
            raise MPIError("another node has died", rank=self.rank, reported_by_peer=True)
        return comm

    def raise_fault(self) -> None:
        if self.fault is not None:
            raise self.fault

    def report(self, error: MPIError, notice: str = "") -> None:
        """Make this the fault, unless there is one, and notify all ranks, unless a peer has."""
        if self._set_fault(error) and not error.reported_by_peer:
            self._notify(FAULT, (notice or str(error)).encode()[:MAX_NOTICE_BYTES])

    def poll_notices(self, now: float) -> None:
        """Receive other ranks' notices, if the last poll is long enough ago."""
        if now - self._last_poll < NOTICE_SECONDS or self._notices is None or self._is_deaf:
            return
        self._last_poll = now
        status = MPI.Status()
        try:
            # Matched probes: two threads may poll at the same time.
            while (message := self._notices.Improbe(status=status)) is not None:
                text = bytearray(status.Get_count(MPI.BYTE))
                message.Recv([text, MPI.BYTE])
                source = status.Get_source()
                if status.Get_tag() == LEAVING:
                    self._leaving.add(source)
                else:
                    reason = f"rank {source} reported: {text.decode(errors='replace')}"
                    self._set_fault(MPIError(reason, rank=self.rank, reported_by_peer=True))
        except MPI.Exception as error:
            self._is_deaf = error.Get_error_class() not in _DEATHS
            self.report(self.translate(error))
            if not self._is_deaf:
                self._notices.Ack_failed()  # probes work again

    def translate(self, error: MPI.Exception, peer: int | None = None) -> MPIError:
        """Put an error of MPI in an operation with `peer` into words."""
        kind, dead = error.Get_error_class(), self.dead_ranks()
        if kind == MPI.ERR_REVOKED:
            self._last_poll = 0.0
            self.poll_notices(time.perf_counter())  # it says why
            if self.fault is not None:
                return self.fault
        if kind in _DEATHS or (kind == MPI.ERR_REVOKED and dead):
            peer = peer if peer in dead or not dead else dead[0]
            reason = "the node died (its process has ended)"
            if len(dead) > 1:
                reason += f", of the dead {', '.join(map(str, dead))}"
            living = (rank for rank in range(self.size) if rank not in dead)
            is_first = next(living, self.rank) == self.rank
            return MPIError(reason, rank=self.rank, peer=peer, reported_by_peer=not is_first)
        if kind == MPI.ERR_REVOKED:
            return MPIError("another node has given up", rank=self.rank, reported_by_peer=True)
        return MPIError(str(error), rank=self.rank, peer=peer)

    def dead_ranks(self) -> list[int]:
        """Return the ranks that are known here to have died."""
        if self._notices is None:
            return []
        failed, everyone = self._notices.Get_failed(), self._notices.Get_group()
        ranks = MPI.Group.Translate_ranks(failed, None, everyone)
        failed.Free()
        everyone.Free()
        return sorted(ranks)

    def revoke(self) -> None:
        """Let whoever still waits for something in this world raise, on every rank."""
        for comm in (*self.groups, self.comm):
            comm.Revoke()

    def leave(self, grace: float) -> None:
        """Notify the living that this rank ends, and wait `grace` seconds at most for theirs."""
        self._notify(LEAVING, b"")
        if self._notices is None:
            return
        deadline = time.perf_counter() + grace
        while time.perf_counter() < deadline:
            if len(self._leaving.union(self.dead_ranks())) >= self.size - 1:
                break
            self._last_poll = 0.0
            self.poll_notices(time.perf_counter())
            time.sleep(1e-3)

    def _notify(self, tag: int, text: bytes) -> None:
        if self._notices is None:  # the start itself has failed
            return
        for peer in range(self.size):
            if peer != self.rank:
                with contextlib.suppress(MPI.Exception):  # a dead rank cannot be notified
                    request = self._notices.Isend([text, MPI.BYTE], dest=peer, tag=tag)
                    self._sent.append((request, text))

    def _set_fault(self, error: MPIError) -> bool:
        """Make this the fault; return whether there was none before."""
        with self._lock:
            if self.fault is not None:
                return False
            self.fault = error
        return True
