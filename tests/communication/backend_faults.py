"""What happens when a rank is silent or sends something else; started by mpirun.

    mpirun -n N python -m tests.communication.backend_faults SCENARIO FOLDER

Each rank that raises writes FOLDER/RANK.json: what it raised and after how many seconds.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import pytest
import torch
import torch.distributed as dist

from pcode.communication import mpi
from pcode.errors import CommunicationError

LIMIT_SECONDS = 2.0
LATER_SECONDS = 0.8  # ranks that start to wait so much later are told before their own limit
SILENT_SECONDS = 120.0
STATUS = 7


def silent(folder: Path) -> NoReturn:
    """Of four ranks the last one never communicates; each other one waits in another way."""
    rank = dist.get_rank()
    dist.barrier()
    begin = time.perf_counter()
    try:
        if rank == 3:
            time.sleep(SILENT_SECONDS)
        elif rank == 0:
            dist.recv(torch.zeros(10), 3)
        elif rank == 1:
            time.sleep(LATER_SECONDS)
            dist.recv(torch.zeros(10), 0)
        else:
            time.sleep(LATER_SECONDS)
            work = dist.all_reduce(torch.ones(3), async_op=True)
            assert work is not None
            work.get_future().wait()
    except RuntimeError as error:
        write(folder, error, time.perf_counter() - begin)
        again = time.perf_counter()
        with pytest.raises(CommunicationError, match=r"^(?!.*barrier)"):  # the fault is known
            dist.barrier()
        assert time.perf_counter() - again < LIMIT_SECONDS / 2
    mpi.abort(STATUS)


def mismatch(folder: Path) -> None:
    """Rank 1 sends fewer bytes than rank 0 expects; nobody calls abort."""
    rank = dist.get_rank()
    dist.barrier()
    begin = time.perf_counter()
    try:
        if rank == 0:
            dist.recv(torch.zeros(10), 1)
        else:
            dist.send(torch.zeros(9), 0)
            dist.recv(torch.zeros(1), 0)
    except CommunicationError as error:
        write(folder, error, time.perf_counter() - begin)
        raise


def all_reduce(folder: Path) -> None:
    """Of three ranks the last one does not come to a collective operation, the first one late."""
    rank = dist.get_rank()
    dist.barrier()
    begin = time.perf_counter()
    try:
        if rank == 0:
            time.sleep(LATER_SECONDS)
        if rank < 2:
            dist.all_reduce(torch.ones(100_000))
    except CommunicationError as error:
        write(folder, error, time.perf_counter() - begin)
        raise
    time.sleep(SILENT_SECONDS)


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
    mpi.init_process_group(timedelta(seconds=LIMIT_SECONDS))
    {"silent": silent, "mismatch": mismatch, "all_reduce": all_reduce}[sys.argv[1]](
        Path(sys.argv[2])
    )
