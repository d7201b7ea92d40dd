"""torch.distributed over MPI on stock PyTorch, whose wheels are built without MPI.

`register()` makes "mpi" a working backend name: a process group over mpi4py with every operation
that torch.distributed has for tensors in host memory (see group). A PyTorch built with MPI keeps
its own. Three ways to use it, all of them under `mpirun -n N`:

- `init_process_group(timeout)` of this package.
- `register()`, then `torch.distributed.init_process_group("mpi", timeout=...)`. As with a PyTorch
  built with MPI, rank and size come from MPI, and the environment (env://) is not needed.
- `mpirun -n N python -m pcode.mpi_backend [-m] PROGRAM ARGUMENTS` runs a program that calls
  `torch.distributed.init_process_group("mpi")` as it stands. It also sets RANK, WORLD_SIZE,
  LOCAL_RANK, MASTER_ADDR and MASTER_PORT, and an exception that the program does not catch ends
  the job on all ranks.

A PyTorch built with MPI has no store. Here there is one, on rank 0, so that groups of other
backends (gloo, nccl) can be made on top. torch does not take use_local_synchronization for the
backend "mpi", but takes it for backend="cpu:mpi". New groups have torch's own default time limit
(30 minutes), not that of the default group, unless they are given one. Tensors of other devices and
sparse ones are errors. The average of integers is rounded towards zero, as NCCL's. What a rank
starts or forks is no rank: it gets an error where it would join.

Time limits. Work.wait() raises an MPIError when the group's timeout has passed since the call; the
rank that notices notifies all others, whose waits raise within a tenth of a second. After that MPI
cannot be finalized (messages are missing), so the process ends by `abort`, at the latest when the
interpreter exits, and with it the job: call it earlier for another exit status.

To import the package, or to register the backend, does not initialize MPI.
"""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, NoReturn

import torch.distributed as dist

from pcode.mpi_backend import library
from pcode.mpi_backend.library import MPIError, MPISetupError
from pcode.mpi_backend.torch_internals import register_backend

if TYPE_CHECKING:
    from pcode.mpi_backend.runtime import Runtime

__all__ = [
    "DEFAULT_TIMEOUT",
    "MPIError",
    "MPISetupError",
    "abort",
    "finish",
    "init_process_group",
    "is_cuda_aware",
    "recover",
    "register",
]

DEFAULT_TIMEOUT = timedelta(minutes=30)  # torch's for backends other than NCCL


@cache
def get_runtime() -> Runtime:
    """Return this process's runtime; the first call initializes MPI."""
    with library.initializing():
        # The one import that is not at the top: it imports mpi4py's MPI, which initializes MPI.
        from pcode.mpi_backend.runtime import Runtime  # noqa: PLC0415
    return Runtime(DEFAULT_TIMEOUT)


def register() -> None:
    """Make "mpi" a backend of torch.distributed; nothing to do where it is one already.

    torch.distributed.is_mpi_available() is True afterwards. Makes settings of the MPI library's and
    of torch's that the user has not made (see library). MPI is initialized with the first process
    group: a DataLoader's worker that is spawned, and imports the program again, is no rank.

    Raises:
        MPISetupError: mpi4py is missing.
    """
    if not dist.is_mpi_available():
        library.prepare()
        register_backend(get_runtime)


def is_cuda_aware() -> bool:
    """Return whether the MPI library says that it sends and receives the memory of CUDA devices."""
    get_runtime()
    return library.is_cuda_aware()


def init_process_group(timeout: timedelta = DEFAULT_TIMEOUT) -> None:
    """Initialize torch.distributed over MPI; collective over all ranks that mpirun has started.

    The timeout is that of every operation of the default group.

    Raises:
        MPISetupError: mpi4py or an MPI library is missing, it does not allow several threads, this
            process was started by a rank and is none, or rank 0 cannot be reached.
        MPIError: not all ranks have come within the time limit.
    """
    register()
    get_runtime().timeout = timeout
    dist.init_process_group("mpi", timeout=timeout)


def abort(status: int = 1, grace: float = 2.0) -> NoReturn:
    """End the job on all ranks; does not return.

    To be called by a rank that has raised an MPIError and printed it: MPI cannot be finalized any
    more. Waits until the other ranks have come here too, so that they can print theirs, but not
    longer than `grace` seconds: a silent rank does not come. The status, 1 to 255, is that of this
    process and, by mpirun, of the job.
    """
    get_runtime().abort(status, grace)


def recover(reason: str = "") -> list[int]:
    """Go on with the ranks that live: make torch.distributed's default group anew, of these.

    Called by every living rank after an MPIError, its own or another's, or by one that has a reason
    of its own, which the MPIErrors of the others name. Ranks are renumbered from 0 in their order.
    Whatever was under way fails; other groups are gone. Needs an MPI that is fault tolerant
    (`mpirun --with-ft ulfm`) where a rank has died.

    Returns:
        The ranks before of those that live, ascending.

    Raises:
        MPIError: a rank is alive and has not come within the default group's time limit.
    """
    return get_runtime().recover(reason)


def finish(status: int = 0) -> None:
    """Return when all living ranks have called it, on all of them or, where one died, on none.

    After recover() it ends this process with this status, because MPI_Finalize may wait for the
    dead (seen with Open MPI 5.0.11); mpirun takes that for a good end.

    Raises:
        MPIError: a rank died, or has not come within the default group's time limit.
    """
    get_runtime().finish(status)
