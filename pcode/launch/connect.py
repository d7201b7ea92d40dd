"""Joining the ranks of a run over torch.distributed, and leaving them."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from typing import NoReturn

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pcode.communication import mpi
from pcode.config.options import Launch
from pcode.errors import CommunicationError
from pcode.launch.environment import RankEnvironment, rendezvous_address


def connect(launch: Launch, place: RankEnvironment) -> None:
    """Initialise torch.distributed with the run's backend and time limit.

    Raises:
        CommunicationError: the other ranks cannot be reached.
        UserError: no MPI library, or no address at which the ranks could meet.
    """
    limit = timedelta(seconds=launch.time_limit_seconds)
    if launch.backend == "mpi":
        mpi.init_process_group(limit)
        return
    host, port = rendezvous_address()
    try:
        store = TCPStore(host, port, place.num_ranks, place.rank == 0, limit)
        dist.init_process_group(
            launch.backend, store=store, rank=place.rank, world_size=place.num_ranks, timeout=limit
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise CommunicationError(
            f"cannot join the others at {host}:{port}: {reason}", rank=place.rank
        ) from error


def disconnect() -> None:
    """Leave after a run that went well; returns when all ranks have."""
    dist.barrier()
    dist.destroy_process_group()


def abort(message: str) -> NoReturn:
    """Print `message` and end this process with status 1, and with it the others'.

    For a rank whose run has failed: the others may wait for it, so nothing that needs them
    (finalising MPI, interpreter exit handlers of a backend) is tried.
    """
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    if dist.is_initialized() and "mpi" in dist.get_backend():
        mpi.abort(1)
    os._exit(1)
