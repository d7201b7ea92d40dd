"""The mpi backend keeps its time limits, and programs that know only torch run over it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.mpi_backend import faults
from tests.support.programs import ROOT, quick_python, run_command, run_mpi

START_SECONDS = 120.0  # a generous limit: 4 ranks on 2 busy cores import torch


def read(folder: Path, rank: int) -> Any:
    """What a rank has written."""
    return json.loads((folder / f"{rank}.json").read_text(encoding="utf-8"))


def test_silent_rank_is_named_on_all_ranks_when_one_has_waited_for_the_limit(
    tmp_path: Path,
) -> None:
    argv = ["-m", "tests.mpi_backend.faults", "silent", str(tmp_path)]
    done = run_mpi(4, argv, timeout=START_SECONDS)
    assert done.returncode == faults.STATUS, done.stderr
    limit = faults.LIMIT_SECONDS
    first, notified, waiting = (read(tmp_path, rank) for rank in range(3))
    assert not (tmp_path / "3.json").exists()
    message = f"rank 0, peer 3: no message within the timeout of {limit:g} s (recv, 40 bytes)"
    assert first["kind"] == "MPIError"
    assert (first["rank"], first["peer"], first["text"]) == (0, 3, message)
    assert first["seconds"] >= limit
    # The others were notified before their own limit had passed: that would have given another
    # text, with the other limit in it and without rank 0's report.
    assert (notified["kind"], notified["rank"], notified["peer"]) == ("MPIError", 1, 0)
    assert notified["text"] == f"rank 1, peer 0: rank 0 reported: {message}"
    assert f"rank 0 reported: {message}" in waiting["text"]


def test_collective_names_the_rank_that_has_not_come(tmp_path: Path) -> None:
    argv = ["-m", "tests.mpi_backend.faults", "all_reduce", str(tmp_path)]
    done = run_mpi(3, argv, timeout=START_SECONDS)
    assert done.returncode != 0
    noticed = "rank 1, peer 2: no message within the timeout of 2 s (all_reduce, 133332 bytes)"
    reported = f"rank 0, peer 2: rank 1 reported: {noticed}"
    for rank, text in enumerate((reported, noticed)):
        found = read(tmp_path, rank)
        assert (found["rank"], found["peer"], found["text"]) == (rank, 2, text)
        assert text in done.stderr


def test_monitored_barrier_names_all_ranks_that_have_not_come(tmp_path: Path) -> None:
    argv = ["-m", "tests.mpi_backend.faults", "monitored_barrier", str(tmp_path)]
    done = run_mpi(4, argv, timeout=START_SECONDS)
    assert done.returncode != 0
    noticed = (
        "rank 0: no message within the timeout of 2 s (ranks 2, 3) (monitored_barrier, 2 bytes)"
    )
    assert read(tmp_path, 0)["text"] == noticed
    assert read(tmp_path, 1)["text"] == f"rank 1, peer 0: rank 0 reported: {noticed}"


def test_message_of_another_size_ends_the_job_without_abort(tmp_path: Path) -> None:
    argv = ["-m", "tests.mpi_backend.faults", "mismatch", str(tmp_path)]
    done = run_mpi(2, argv, timeout=START_SECONDS)
    assert done.returncode != 0
    message = "rank 0, peer 1: received 36 bytes where 40 were expected"
    assert read(tmp_path, 0)["text"] == message
    assert read(tmp_path, 1)["text"] == f"rank 1, peer 0: rank 0 reported: {message}"
    assert message in done.stderr


STARTED = """
import os
from pcode.mpi_backend import init_process_group
init_process_group()
print(os.environ.get("OMPI_MCA_btl"))
"""


VERBOSE = {"OMPI_MCA_btl_base_verbose": "10"}


def transports(done: subprocess.CompletedProcess[str], later: str = "None") -> set[str]:
    """Those that Open MPI says to open; `later`: what is left to programs that follow."""
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{later}\n"
    return set(re.findall(r"components_open: found loaded component (\w+)", done.stderr))


def test_transport_that_sleeps_is_left_out_unless_the_user_has_chosen_others() -> None:
    started = ["-c", STARTED]
    found = transports(run_mpi(1, started, START_SECONDS, VERBOSE))
    assert "self" in found
    assert "ofi" not in found
    chosen = {**VERBOSE, "OMPI_MCA_btl": "self"}
    assert transports(run_mpi(1, started, START_SECONDS, chosen), "self") == {"self"}


def test_process_by_itself_has_no_transport_that_leaves_shared_memory(tmp_path: Path) -> None:
    env = {**VERBOSE, "TMPDIR": str(tmp_path)}  # where Open MPI leaves a folder all the same
    done = run_command([quick_python(), "-c", STARTED], ROOT, START_SECONDS, env)
    assert transports(done) == {"self"}


PROGRAM = """
import sys

import torch
import torch.distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group(backend="mpi")
assert dist.get_backend() == "mpi" and dist.is_backend_available("mpi")
model = DistributedDataParallel(torch.nn.Linear(3, 1))
optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1)
model(torch.full((2, 3), float(dist.get_rank()))).sum().backward()
optimizer.step()
half = dist.new_group([1])
if dist.get_rank() == 1:
    dist.all_reduce(torch.ones(1), group=half)
    if sys.argv[1] == "fail":
        raise ZeroDivisionError("on rank 1 alone")
weights = [torch.zeros(1, 3) for _ in range(dist.get_world_size())]
dist.all_gather(weights, model.module.weight.detach())
assert torch.equal(weights[0], weights[1])
print("done", dist.get_rank(), dist.get_world_size())
dist.destroy_process_group()
"""


def test_program_that_knows_only_torch_runs_unchanged(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    done = run_mpi(2, ["-m", "pcode.mpi_backend", str(program), "-"], START_SECONDS)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")) == ["", "done 0 2", "done 1 2"]
    assert "Warning" not in done.stderr


def test_failure_of_one_rank_ends_the_program_on_all(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    done = run_mpi(2, ["-m", "pcode.mpi_backend", str(program), "fail"], START_SECONDS)
    assert done.returncode == 1
    assert "ZeroDivisionError: on rank 1 alone" in done.stderr


WITH_CHILDREN = """
import multiprocessing
import subprocess
import sys

import torch
from torch import distributed as dist
from torch.utils.data import DataLoader, TensorDataset

from pcode import mpi_backend

mpi_backend.register()
JOIN = "from pcode import mpi_backend; mpi_backend.init_process_group()"

def joined(way, program=JOIN):
    child = multiprocessing.get_context(way).Process(target=exec, args=(program,))
    child.start()
    child.join()
    return child.exitcode

if __name__ == "__main__":
    assert joined("spawn") == 1
    dist.init_process_group("mpi")
    data = TensorDataset(torch.arange(8.0))
    for way in ("fork", "spawn", "forkserver"):
        loader = DataLoader(data, batch_size=4, num_workers=1, multiprocessing_context=way)
        assert [len(batch) for (batch,) in loader] == [4, 4], way
        assert joined(way) == 1, way
    sums = "import torch; from torch import distributed as dist; dist.all_reduce(torch.ones(1))"
    assert joined("fork", sums) == 1
    later = ["sh", "-c", '("$@" || echo refused) & exit', "sh"]
    for command in ([], later):
        command += [sys.argv[1], "-c", JOIN]
        done = subprocess.run(command, stdout=subprocess.PIPE)
        assert done.returncode == 1 or done.stdout == b"refused\\n", command
    dist.barrier()
    print("done", dist.get_rank())
"""


@pytest.mark.slow
def test_processes_that_ranks_start_are_no_ranks(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(WITH_CHILDREN, encoding="utf-8")
    env = {"PYTHONPATH": str(ROOT)}
    done = run_mpi(2, [str(program), sys.executable], START_SECONDS, env)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")) == ["", "done 0", "done 1"]
    said = re.findall(r"this process \(\d+\) is not a rank, but was \w+ by one", done.stderr)
    assert len(said) == 2 * 6  # but for a forked one that has a default group already


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiled_functions_communicate(compiler: str) -> None:
    done = run_mpi(2, ["-m", "tests.mpi_backend.compiled", compiler], 2 * START_SECONDS)
    assert done.returncode == 0, done.stderr


IGNITE = """
import ignite.distributed as idist
import torch

def training(local_rank):
    assert idist.backend() == "mpi"
    total = idist.all_reduce(idist.get_rank() + 1)
    gathered = idist.all_gather(torch.tensor([float(idist.get_rank())]))
    model = idist.auto_model(torch.nn.Linear(2, 1))
    model(torch.ones(1, 2)).sum().backward()
    print("done", total, gathered.tolist(), type(model).__name__)

with idist.Parallel(backend="mpi") as parallel:
    parallel.run(training)
"""


def test_pytorch_ignite_runs_unchanged(tmp_path: Path) -> None:
    pytest.importorskip("ignite", reason="needs pytorch-ignite")
    program = tmp_path / "program.py"
    program.write_text(IGNITE, encoding="utf-8")
    done = run_mpi(2, ["-m", "pcode.mpi_backend", str(program)], START_SECONDS)
    assert done.returncode == 0, done.stderr
    expected = "done 3 [0.0, 1.0] DistributedDataParallel"
    assert [line for line in done.stdout.splitlines() if "done" in line] == [expected] * 2
