"""Joining the ranks of a run over torch.distributed, and leaving them."""

import os
import signal
import socket
import sys
from datetime import timedelta
from typing import NoReturn

import psutil
import torch
import torch.distributed as dist
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from pcode import mpi_backend
from pcode.communication import Communicator, DistributedCommunicator, ProcessCommunicator
from pcode.communication.distributed import naming, nccl_limit, new_group
from pcode.communication.staging import StagedCommunicator
from pcode.utils.errors import CommunicationError, UserError, say

Address = tuple[str, int]  # host and port

# Ranks import for seconds, some longer than others.
_SHORTEST_JOIN_SECONDS = 60.0
_LOOPBACK = "127.0.0.1"


def connect(
    backend: str,
    rank: int,
    size: int,
    *,
    device: torch.device,
    limit_seconds: float,
    address: Address | None = None,
    comm_device: str | None = None,
    all_here: bool = False,
) -> ProcessCommunicator:
    """Join the run's other ranks; this one's view of them, for tensors on its device.

    Args:
        rank, size: of this process; MPI has to agree.
        limit_seconds: the time limit of every operation.
        address: where rank 0 listens; MPI needs none.
        comm_device: "cpu": messages are copied to the host, whatever the backend; "cuda": the
            user asks for messages that are not.
        all_here: all ranks run on this machine: nothing listens beyond loopback, but MPI's
            transports, for which its mpirun has flags.

    Raises:
        CommunicationError: the other ranks cannot be reached.
        UserError: no MPI library, or the wrong one.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)  # before anything makes a stream or a context
    if backend == "mpi":
        communicator = _join_mpi(rank, size, limit_seconds)
    else:
        assert address is not None, "to be given"
        if all_here:
            _stay_on_loopback()
        communicator = _join_by_store(
            backend, rank, size, device, address, seconds=limit_seconds, all_here=all_here
        )
    if device.type == "cpu" or dist.get_backend() == "nccl":
        return communicator
    is_direct = backend == "mpi" and comm_device != "cpu" and mpi_backend.is_cuda_aware()
    if comm_device == "cuda" and not is_direct and rank == 0:
        say(
            f"warning: --comm_device cuda: {dist.get_backend()} takes no memory of GPUs here; "
            "messages are copied to page-locked host memory"
        )
    return StagedCommunicator(communicator, device, is_direct)


def _join_mpi(rank: int, size: int, limit_seconds: float) -> DistributedCommunicator:
    # MPI waits for ever for a rank that died before it joined, and no Python runs meanwhile: this
    # ends the process by SIGALRM. The launcher says what it means.
    signal.setitimer(signal.ITIMER_REAL, max(limit_seconds, _SHORTEST_JOIN_SECONDS))
    with naming(rank):
        try:
            mpi_backend.init_process_group(timedelta(seconds=limit_seconds))
        except mpi_backend.MPISetupError as error:
            raise UserError(str(error).replace("the mpi backend", "--backend mpi")) from error
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    if dist.get_world_size() != size:
        raise UserError(
            f"--backend mpi: {size} processes were started, but MPI counts "
            f"{dist.get_world_size()}: they were started by another MPI than the installed one, or "
            "variables such as OMPI_COMM_WORLD_SIZE are left from another run"
        )
    return DistributedCommunicator()


def _join_by_store(
    backend: str,
    rank: int,
    size: int,
    device: torch.device,
    address: Address,
    *,
    seconds: float,
    all_here: bool,
) -> DistributedCommunicator:
    """Join over gloo or NCCL, at an address that all ranks know."""
    limit = timedelta(seconds=seconds)
    join_limit = timedelta(seconds=max(seconds, _SHORTEST_JOIN_SECONDS))
    host, port = address
    # torchrun has a store of its own at that address; elsewhere rank 0 opens one.
    method = "env://" if dist.is_torchelastic_launched() else f"tcp://{host}:{port}"
    try:
        # Rank 0's store is open when all have come to it; from then on the run's own limit holds.
        if all_here and not dist.is_torchelastic_launched():
            host = _LOOPBACK
            store: Store = _store_on_loopback(rank, size, port, join_limit)
        else:
            store, rank, size = next(rendezvous(method, rank, size, timeout=join_limit))
        over_nccl = backend == "nccl" and not _share_gpus(store, rank, size, device)
        dist.init_process_group(
            "nccl" if over_nccl else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=nccl_limit(seconds) if over_nccl else limit,
            device_id=device if over_nccl else None,
        )
        # What is no tensor of a model lies in host memory.
        host_group = new_group(None, limit, "gloo") if over_nccl else None
        return DistributedCommunicator(host_group=host_group)
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        reason = f"cannot join the others at {host}:{port}: {reason}"
        raise CommunicationError(reason, rank=rank) from error


def _stay_on_loopback() -> None:
    """Let gloo and NCCL listen there alone, unless the user has chosen an interface for them."""
    for name, addresses in psutil.net_if_addrs().items():
        if _LOOPBACK in [each.address for each in addresses]:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def _store_on_loopback(rank: int, size: int, port: int, limit: timedelta) -> Store:
    """Open the store on rank 0, or join it; torch's own would listen on all interfaces."""
    listening = socket.create_server((_LOOPBACK, port)).detach() if rank == 0 else None
    return TCPStore(_LOOPBACK, port, size, rank == 0, limit, master_listen_fd=listening)


def _share_gpus(store: Store, rank: int, size: int, device: torch.device) -> bool:
    """Return whether two ranks use one GPU, which NCCL cannot; all ask, the first says so."""
    store.set(f"gpu of {rank}", str(torch.cuda.get_device_properties(device).uuid))
    seen: dict[bytes, int] = {}
    for one in range(size):
        other = seen.setdefault(store.get(f"gpu of {one}"), one)
        if other != one:
            if rank == 0:
                say(
                    f"warning: --backend nccl: ranks {other} and {one} share a GPU, which NCCL "
                    "cannot; messages are copied to host memory and sent by gloo"
                )
            return True
    return False


def disconnect(communicator: Communicator, status: int = 0) -> None:
    """Leave after a run that went well; returns when all ranks that live have.

    Where ranks were lost over MPI it does not return: it ends this process, with this status.

    Args:
        communicator: of all ranks. NCCL's ranks wait for each other by way of the host,
            where a rank that does not come is an error, and not the end of the process.

    Raises:
        CommunicationError: a rank died meanwhile, or has not come within the time limit.
    """
    if "mpi" in dist.get_backend():
        with naming(dist.get_rank()):
            mpi_backend.finish(status)
    else:
        communicator.barrier()
    dist.destroy_process_group()


def abort(message: str, status: int = 1) -> NoReturn:
    """Print `message`, if any, and end this process, and with it the others.

    For a rank whose run has failed: the others may wait for it, so nothing that needs them
    (finalising MPI, interpreter exit handlers of a backend) is tried.
    """
    if message:
        sys.stderr.write(f"{message}\n")  # at once: other ranks write there too
        sys.stderr.flush()
    sys.stdout.flush()
    if dist.is_initialized() and "mpi" in dist.get_backend():
        mpi_backend.abort(status)
    os._exit(status)
