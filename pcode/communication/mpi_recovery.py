"""Going on over MPI after a fault: without the ranks that died, by Open MPI's ULFM.

W. Bland, A. Bouteiller, T. Herault, G. Bosilca, J. Dongarra, "Post-failure recovery of MPI
communication capability", 2013: revoke what is in use, so that whoever waits raises; shrink to the
living; agree on whether what was built on that came about on all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist
from mpi4py import MPI

from pcode.communication.mpi_progress import PROGRESS, within
from pcode.communication.mpi_world import World
from pcode.utils.errors import CommunicationError, UserError

ENABLED = "OMPI_MCA_mpi_ft_enable"  # what --with-ft ulfm sets for the ranks


def recover(limit: timedelta, initialize: Callable[[timedelta], None]) -> list[int]:
    """See pcode.communication.mpi.recover.

    Args:
        limit: time limit of recovery, and of the new default group.
        initialize: makes the default group of torch.distributed for PROGRESS.world.
    """
    old = PROGRESS.world
    if not _survives_deaths():  # the shrinking would never end
        raise CommunicationError(
            "MPI goes on after a failure only under mpirun --with-ft ulfm", rank=old.rank
        )
    # Ends, by the helper thread, what is under way; nobody needs to be told who is revoked.
    old.report(CommunicationError("given up to recover", rank=old.rank, told=True))
    old.revoke()
    deadline = time.monotonic() + limit.total_seconds()

    def left() -> float:
        return max(deadline - time.monotonic(), 1.0)

    world, tried, failure = old, -1, ""
    while True:
        comm = within(left(), "recovery", world.shrunk)
        if comm.Get_size() == tried:  # and nobody has died meanwhile
            reason = f"cannot recover: {failure or 'another node says so'}"
            raise CommunicationError(reason, rank=old.rank, told=not failure)
        tried = comm.Get_size()
        world = PROGRESS.world = World(comm, is_remade=True)
        if dist.is_initialized():
            dist.destroy_process_group()
        failure = ""
        try:
            world.open(within(left(), "recovery", world.duplicate))
            initialize(limit)
        except (CommunicationError, UserError, MPI.Exception, dist.DistError) as error:
            failure = str(error)
            world.report(CommunicationError("given up to recover", rank=world.rank, told=True))
            world.revoke()  # or others would wait for this rank
        if _agree(world, left(), not failure):
            return _translate(comm, old.comm)


def _survives_deaths() -> bool:
    return os.environ.get(ENABLED) == "1"


def leave(limit: float) -> None:
    """See pcode.communication.mpi.leave."""
    world = PROGRESS.world
    world.raise_fault()
    if not _survives_deaths():  # an MPI without fault tolerance may have no other call
        within(limit, "end of the run", world.comm.Barrier)
        return
    if not _agree(world, limit, True):
        error = CommunicationError("a node died at the end of the run", rank=world.rank)
        world.report(error)
        raise error


def _agree(world: World, limit: float, good: bool) -> bool:
    """Whether it is good on all ranks and none has died; the same answer on all."""

    def agree() -> bool:
        try:
            return bool(world.comm.Agree(int(good)))
        except MPI.Exception:
            return False

    return within(limit, "agreement", agree)


def _translate(comm: MPI.Intracomm, old: MPI.Intracomm) -> list[int]:
    """The ranks of comm, in old."""
    return list(MPI.Group.Translate_ranks(comm.Get_group(), None, old.Get_group()))
