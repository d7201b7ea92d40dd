"""Joining the ranks of a run over torch.distributed, and leaving them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

import torch
import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from pcode.communication import DistributedCommunicator, ProcessCommunicator, mpi
from pcode.communication.distributed import nccl_limit, new_group
from pcode.communication.staging import StagedCommunicator
from pcode.launch.environment import RankEnvironment, rendezvous_address
from pcode.utils.devices import device_of
from pcode.utils.errors import CommunicationError, UserError

if TYPE_CHECKING:
    from pcode.launch.options import Launch

# Ranks import for seconds, some longer than others.
_SHORTEST_JOIN_SECONDS = 60.0


def connect(launch: Launch, place: RankEnvironment) -> ProcessCommunicator:
    """Join the run's other ranks; this one's view of them, for tensors on its device.

    Raises:
        CommunicationError: the other ranks cannot be reached.
        UserError: no MPI library, the wrong one, or no address at which the ranks could meet.
    """
    device = device_of(launch.on_cuda, launch.world, place.rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # before anything makes a stream or a context
    if launch.backend == "mpi":
        _join_mpi(launch, place)
        communicator = DistributedCommunicator()
    else:
        communicator = _join_by_store(launch, place, device)
    if device.type == "cpu" or dist.get_backend() == "nccl":
        return communicator
    takes_gpus = launch.backend == "mpi" and launch.comm_device != "cpu" and mpi.takes_gpus()
    if launch.comm_device == "cuda" and not takes_gpus and place.rank == 0:
        _warn(
            f"--comm_device cuda: {dist.get_backend()} takes no memory of GPUs here; messages are "
            "copied to page-locked host memory"
        )
    return StagedCommunicator(communicator, device, takes_gpus)


def _warn(line: str) -> None:
    print(f"run.py: warning: {line}", file=sys.stderr, flush=True)


def _join_mpi(launch: Launch, place: RankEnvironment) -> None:
    limit = timedelta(seconds=launch.time_limit_seconds)
    with _alarm(max(launch.time_limit_seconds, _SHORTEST_JOIN_SECONDS)):
        mpi.init_process_group(limit)
    if dist.get_world_size() != place.num_ranks:
        raise UserError(
            f"--backend mpi: {place.num_ranks} processes were started, but MPI counts "
            f"{dist.get_world_size()}: they were started by another MPI than the installed one"
        )


def _join_by_store(
    launch: Launch, place: RankEnvironment, device: torch.device
) -> DistributedCommunicator:
    """Join over gloo or NCCL, at an address that all ranks know."""
    seconds = launch.time_limit_seconds
    join_limit = timedelta(seconds=max(seconds, _SHORTEST_JOIN_SECONDS))
    host, port = rendezvous_address()
    # torchrun has a store of its own at that address; elsewhere rank 0 opens one.
    method = "env://" if place.kind == "torchrun" else f"tcp://{host}:{port}"
    try:
        # Rank 0's store is open when all have come to it; from then on the run's own limit holds.
        store, rank, num_ranks = next(
            rendezvous(method, place.rank, place.num_ranks, timeout=join_limit)
        )
        over_nccl = launch.backend == "nccl" and not _share_gpus(store, place, device)
        dist.init_process_group(
            "nccl" if over_nccl else "gloo",
            store=store,
            rank=rank,
            world_size=num_ranks,
            timeout=nccl_limit(seconds) if over_nccl else timedelta(seconds=seconds),
            device_id=device if over_nccl else None,
        )
        if over_nccl:
            # What is no tensor of a model lies in host memory.
            host_group = new_group(None, timedelta(seconds=seconds), "gloo")
            return DistributedCommunicator(host_group=host_group)
        return DistributedCommunicator()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise CommunicationError(
            f"cannot join the others at {host}:{port}: {reason}", rank=place.rank
        ) from error


def _share_gpus(store: Store, place: RankEnvironment, device: torch.device) -> bool:
    """Whether two ranks use one GPU, which NCCL refuses; all ranks ask, the first one says so."""
    store.set(f"gpu of {place.rank}", str(torch.cuda.get_device_properties(device).uuid))
    seen: dict[bytes, int] = {}
    for rank in range(place.num_ranks):
        other = seen.setdefault(store.get(f"gpu of {rank}"), rank)
        if other != rank:
            if place.rank == 0:
                _warn(
                    f"--backend nccl: ranks {other} and {rank} share a GPU, which NCCL refuses; "
                    "messages are copied to host memory and sent by gloo"
                )
            return True
    return False


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
