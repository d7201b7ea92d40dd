"""The ranks that take part, what they tell each other of faults, and who of them has died.

The rank that notices a fault (time limit, error of MPI) tells all others with a message on a
communicator of its own; whoever waits, or starts an operation later, raises a CommunicationError
as well. A fault is final for a world: what goes on afterwards is another world (mpi_recovery).

Deaths come to light where MPI is fault tolerant (Open MPI's ULFM: `mpirun --with-ft ulfm`): every
rank finds out by itself, and the first of the living is the one whose error is not `told`.
Elsewhere mpirun ends all ranks.
"""

from __future__ import annotations

import contextlib
import threading
import time

from mpi4py import MPI

from pcode.utils.errors import CommunicationError

NOTICE_SECONDS = 0.1  # between looks for other ranks' notices
FAULT, LEAVING = 1, 2  # tags of notices
MAX_NOTICE_BYTES = 2000
_DEATHS = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING)


class World:
    """The ranks that take part.

    Args:
        comm: theirs.
        is_remade: these are the survivors of another world.

    Attributes:
        rank: this process among them.
        fault: the first error here, or that another rank has told of.
        groups: communicators of process groups; revoked when the world is given up.
    """

    def __init__(self, comm: MPI.Intracomm, is_remade: bool = False) -> None:
        self.comm, self.is_remade = comm, is_remade
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.fault: CommunicationError | None = None
        self.groups: list[MPI.Intracomm] = []
        self._notices: MPI.Intracomm | None = None
        self._sent: list[tuple[MPI.Request, bytes]] = []
        self._leaving: set[int] = set()
        self._looked = 0.0
        self._deaf = False
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether there is a channel for notices."""
        return self._notices is not None

    def open(self, notices: MPI.Intracomm) -> None:
        """Take a communicator of all these ranks for notices."""
        self._notices = notices

    def shrunk(self) -> MPI.Intracomm:
        """A communicator of those that live; called by all of them."""
        comm = self.comm.Shrink()
        assert isinstance(comm, MPI.Intracomm), "as what it comes from"
        return comm

    def duplicate(self) -> MPI.Intracomm:
        """Another communicator of all; collective. A death meanwhile leaves nobody waiting.

        Raises:
            CommunicationError: one of the ranks has died.
        """
        comm = self.shrunk()
        if comm.Get_size() != self.size:
            raise CommunicationError("another node has died", rank=self.rank, told=True)
        return comm

    def raise_fault(self) -> None:
        """Raise the fault, if there was one."""
        if self.fault is not None:
            raise self.fault

    def report(self, error: CommunicationError) -> None:
        """Make this the fault, unless there is one, and tell all ranks, unless one has told."""
        if self._set_fault(error) and not error.told:
            self._tell(FAULT, str(error).encode()[:MAX_NOTICE_BYTES])

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
            self._deaf = error.Get_error_class() not in _DEATHS
            self.report(self.translate(error))
            if not self._deaf:
                self._notices.Ack_failed()  # it may be listened to again

    def translate(self, error: MPI.Exception, peer: int | None = None) -> CommunicationError:
        """An error of MPI in an operation with `peer`, in words."""
        kind, dead = error.Get_error_class(), self.dead()
        if kind == MPI.ERR_REVOKED:
            self._looked = 0.0
            self.look(time.perf_counter())  # it says why
            if self.fault is not None:
                return self.fault
        if kind in _DEATHS or (kind == MPI.ERR_REVOKED and dead):
            peer = peer if peer in dead or not dead else dead[0]
            reason = "the node died (its process has ended)"
            if len(dead) > 1:
                reason += f", of the dead {', '.join(map(str, dead))}"
            living = (rank for rank in range(self.size) if rank not in dead)
            told = next(living, self.rank) != self.rank
            return CommunicationError(reason, rank=self.rank, peer=peer, told=told)
        if kind == MPI.ERR_REVOKED:
            return CommunicationError("another node has given up", rank=self.rank, told=True)
        return CommunicationError(str(error), rank=self.rank, peer=peer)

    def dead(self) -> list[int]:
        """The ranks that are known here to have died."""
        if self._notices is None:
            return []
        failed = self._notices.Get_failed()
        everyone = self._notices.Get_group()
        ranks = MPI.Group.Translate_ranks(failed, None, everyone)
        failed.Free()
        everyone.Free()
        return sorted(ranks)

    def revoke(self) -> None:
        """Let whoever still waits for something in this world raise, on every rank."""
        for comm in (*self.groups, self.comm):
            comm.Revoke()

    def leave(self, grace: float) -> None:
        """Tell the living that this rank ends, and wait for them to, `grace` seconds at most."""
        self._tell(LEAVING, b"")
        if self._notices is None:
            return
        deadline = time.perf_counter() + grace
        while time.perf_counter() < deadline and not self._are_others_gone():
            self._looked = 0.0
            self.look(time.perf_counter())
            time.sleep(1e-3)

    def _are_others_gone(self) -> bool:
        return len(self._leaving.union(self.dead())) >= self.size - 1

    def _tell(self, tag: int, text: bytes) -> None:
        if self._notices is None:  # the start itself has failed
            return
        for peer in range(self.size):
            if peer != self.rank:
                with contextlib.suppress(MPI.Exception):  # a dead rank cannot be told
                    request = self._notices.Isend([text, MPI.BYTE], dest=peer, tag=tag)
                    self._sent.append((request, text))

    def _take(self, source: int, tag: int, text: str) -> None:
        if tag == LEAVING:
            self._leaving.add(source)
        else:
            reason = f"rank {source} reported: {text}"
            self._set_fault(CommunicationError(reason, rank=self.rank, told=True))

    def _set_fault(self, error: CommunicationError) -> bool:
        """Make this the fault; return whether there was none before."""
        with self._lock:
            if self.fault is not None:
                return False
            self.fault = error
        return True
