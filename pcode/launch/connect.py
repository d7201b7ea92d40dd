"""Joining the ranks of a run over torch.distributed, and leaving them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from pcode.communication import mpi
from pcode.config.options import Launch
from pcode.errors import CommunicationError, UserError
from pcode.launch.environment import RankEnvironment, rendezvous_address

# Ranks import for seconds, some longer than others.
_SHORTEST_JOIN_SECONDS = 60.0


def connect(launch: Launch, place: RankEnvironment) -> None:
    """Initialise torch.distributed with the run's backend and time limit.

    Raises:
        CommunicationError: the other ranks cannot be reached.
        UserError: no MPI library, the wrong one, or no address at which the ranks could meet.
    """
    limit = timedelta(seconds=launch.time_limit_seconds)
    join_seconds = max(launch.time_limit_seconds, _SHORTEST_JOIN_SECONDS)
    if launch.backend == "mpi":
        with _alarm(join_seconds):
            mpi.init_process_group(limit)
        if dist.get_world_size() != place.num_ranks:
            raise UserError(
                f"--backend mpi: {place.num_ranks} processes were started, but MPI counts "
                f"{dist.get_world_size()}: they were started by another MPI than the installed one"
            )
        return
    host, port = rendezvous_address()
    # torchrun has a store of its own at that address; elsewhere rank 0 opens one.
    method = "env://" if place.kind == "torchrun" else f"tcp://{host}:{port}"
    try:
        # Rank 0's store is open when all have come to it; from then on the run's own limit holds.
        store, rank, num_ranks = next(
            rendezvous(method, place.rank, place.num_ranks, timeout=timedelta(seconds=join_seconds))
        )
        dist.init_process_group(
            launch.backend, store=store, rank=rank, world_size=num_ranks, timeout=limit
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise CommunicationError(
            f"cannot join the others at {host}:{port}: {reason}", rank=place.rank
        ) from error


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """SIGALRM ends this process if the block takes longer; the launcher says what it means.

    MPI waits for ever for a rank that died before it joined, and no Python runs meanwhile.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def disconnect(status: int = 0) -> None:
    """Leave after a run that went well; returns when all ranks that live have.

    Where ranks were lost over MPI it does not return: it ends this process.

    Args:
        status: with which this process will end.

    Raises:
        CommunicationError: a rank died meanwhile, or has not come within the time limit.
    """
    if "mpi" in dist.get_backend():
        mpi.leave(status)
    else:
        dist.barrier()
    dist.destroy_process_group()


def abort(message: str, status: int = 1) -> NoReturn:
    """Print `message`, if any, and end this process, and with it the others.

    For a rank whose run has failed: the others may wait for it, so nothing that needs them
    (finalising MPI, interpreter exit handlers of a backend) is tried.
    """
    if message:
        print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    if dist.is_initialized() and "mpi" in dist.get_backend():
        mpi.abort(status)
    os._exit(status)
