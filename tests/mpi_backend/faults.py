"""What happens when a rank is silent or sends something else; started by mpirun.

    mpirun -n N python -m tests.mpi_backend.faults SCENARIO FOLDER

Each rank that raises writes FOLDER/RANK.json: what it raised and after how many seconds. The rank
that is to notice a silent one has a shorter time limit than the others: these would have waited
much longer, and have raised an error of their own, had they not been notified.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import pytest
import torch
import torch.distributed as dist

from pcode import mpi_backend
from pcode.mpi_backend import MPIError

LIMIT_SECONDS = 2.0  # of the rank that is to notice
PATIENCE_SECONDS = 30.0  # of the others
STATUS = 7


def begin(noticing: int) -> float:
    """Start together, with a shorter limit on the rank that is to notice; the time."""
    dist.barrier()
    if dist.get_rank() == noticing:
        group = dist.group.WORLD
        assert group is not None
        group.set_timeout(timedelta(seconds=LIMIT_SECONDS))
    return time.perf_counter()


def silent(folder: Path) -> NoReturn:
    """Of four ranks the last one never communicates; each other one waits in another way."""
    rank = dist.get_rank()
    began = begin(noticing=0)
    try:
        if rank == 3:
            signal.pause()  # ended with the job
        elif rank == 0:
            dist.recv(torch.zeros(10), 3)
        elif rank == 1:
            dist.recv(torch.zeros(10), 0)
        else:
            work = dist.all_reduce(torch.ones(3), async_op=True)
            assert work is not None
            work.get_future().wait()
    except RuntimeError as error:
        write(folder, error, time.perf_counter() - began)
        # The fault is known: an error of the barrier's own time limit would name the barrier.
        with pytest.raises(MPIError, match=r"^(?!.*barrier)"):
            dist.barrier()
    mpi_backend.abort(STATUS)


def monitored_barrier(folder: Path) -> None:
    """Of four ranks two do not come; only the first one knows which."""
    rank, limit = dist.get_rank(), timedelta(seconds=LIMIT_SECONDS)
    dist.barrier()
    began = time.perf_counter()
    try:
        if rank < 2:
            dist.monitored_barrier(timeout=limit)
    except MPIError as error:
        write(folder, error, time.perf_counter() - began)
        raise
    signal.pause()  # ended with the job


def mismatch(folder: Path) -> None:
    """Rank 1 sends fewer bytes than rank 0 expects; nobody calls abort."""
    rank = dist.get_rank()
    began = begin(noticing=0)
    try:
        if rank == 0:
            dist.recv(torch.zeros(10), 1)
        else:
            dist.send(torch.zeros(9), 0)
            dist.recv(torch.zeros(1), 0)
    except MPIError as error:
        write(folder, error, time.perf_counter() - began)
        raise


def all_reduce(folder: Path) -> None:
    """Of three ranks the last one does not come to a collective operation."""
    rank = dist.get_rank()
    began = begin(noticing=1)
    try:
        if rank < 2:
            dist.all_reduce(torch.ones(100_000))
    except MPIError as error:
        write(folder, error, time.perf_counter() - began)
        raise
    signal.pause()  # ended with the job


def write(folder: Path, error: RuntimeError, seconds: float) -> None:
    """Note what this rank has raised."""
    found = {
        "kind": type(error).__name__,
        "text": str(error),
        "rank": getattr(error, "rank", None),
        "peer": getattr(error, "peer", None),
        "seconds": seconds,
    }
    path = folder / f"{dist.get_rank()}.json"
    path.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    mpi_backend.init_process_group(timedelta(seconds=PATIENCE_SECONDS))
    scenarios = (silent, monitored_barrier, mismatch, all_reduce)
    {each.__name__: each for each in scenarios}[sys.argv[1]](Path(sys.argv[2]))
