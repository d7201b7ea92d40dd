"""Environment variables that are wrong or contradict each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcode.utils.errors import USER_ERROR
from tests.run.bad_input import Refuse, listing
from tests.run.runs import run

OMPI = "OMPI_COMM_WORLD_"


def ompi(rank: object, size: object, local_rank: object, local_size: object) -> dict[str, str]:
    names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    values = (rank, size, local_rank, local_size)
    return {OMPI + name: str(value) for name, value in zip(names, values, strict=True)}


STEP = {
    **{"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    "SLURM_STEP_NUM_TASKS": "2",
}
# The variables, and what the line names.
CASES = {
    "no number of threads": ({"OMP_NUM_THREADS": "x"}, "OMP_NUM_THREADS='x'"),
    "no threads": ({"OMP_NUM_THREADS": "0"}, "OMP_NUM_THREADS='0'"),
    "empty threads": ({"OMP_NUM_THREADS": ","}, "OMP_NUM_THREADS"),
    "negative threads": ({"OMP_NUM_THREADS": "-1"}, "OMP_NUM_THREADS='-1'"),
    "too many threads": ({"OMP_NUM_THREADS": "9" * 30}, "OMP_NUM_THREADS"),
    "control characters": ({"OMP_NUM_THREADS": "1\n2"}, "OMP_NUM_THREADS"),
    "rank beyond": (ompi(2, 2, 0, 1), "contradicts itself: rank 2 of 2"),
    "local rank beyond": (ompi(0, 2, 2, 2), "contradicts itself"),
    "more here than anywhere": (ompi(0, 2, 0, 3), "contradicts itself"),
    "no ranks": (ompi(0, 0, 0, 0), OMPI + "SIZE='0'"),
    "no number": (ompi("first", 2, 0, 2), OMPI + "RANK='first'"),
    "huge": (ompi("9" * 30, 2, 0, 2), OMPI + "RANK"),
    "new line": (ompi("1\n2", 2, 0, 2), OMPI + "RANK"),
    "without companions": ({OMPI + "RANK": "0"}, OMPI + "SIZE is not set"),
    "another number of nodes": (ompi(0, 3, 0, 3), "--n_mpi_process 2: 3 ranks were started"),
    "torchrun, beyond": (
        {"TORCHELASTIC_RUN_ID": "1", "RANK": "5", "WORLD_SIZE": "2"},
        "contradicts itself",
    ),
    "torchrun, no number": (
        {"TORCHELASTIC_RUN_ID": "1", "RANK": "x", "WORLD_SIZE": "2"},
        "RANK='x'",
    ),
    "torchrun, nothing": ({"TORCHELASTIC_RUN_ID": "1"}, "RANK is not set"),
    "torchrun for MPI": ({"RANK": "0", "WORLD_SIZE": "2"}, "--backend mpi: torchrun"),
    "slurm, no list": (STEP, "SLURM_STEP_TASKS_PER_NODE=''"),
    "slurm, no machine": ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "2"}, "SLURM_NODEID"),
    "slurm, huge list": ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "1(x9999999)"}, "TASKS_PER_NODE"),
    "slurm, no rank": (
        {**STEP, "SLURM_PROCID": "x", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NODEID": "0"},
        "SLURM_PROCID='x'",
    ),
    "PMIx alone": ({"PMIX_RANK": "0"}, "PMIX_RANK"),
    "PMI alone": ({"PMI_RANK": "0"}, "PMI_SIZE"),
    "failure": ({"PCODE_INJECT": "explode:0:1:data"}, "PCODE_INJECT"),
    "failure without a step": ({"PCODE_INJECT": "kill:0"}, "PCODE_INJECT"),
    "failure, empty part": ({"PCODE_INJECT": "kill:0:1:data,"}, "PCODE_INJECT"),
    "failure, no number": ({"PCODE_INJECT": "kill:x:1:data"}, "PCODE_INJECT"),
    "failure, endless": ({"PCODE_INJECT": "delay=inf:0:1:data"}, "PCODE_INJECT"),
    "failure, unknown phase": ({"PCODE_INJECT": "kill:0:1:a\nb"}, "PCODE_INJECT"),
}


@pytest.mark.parametrize(("variables", "named"), CASES.values(), ids=CASES)
def test_a_wrong_variable_is_one_line(
    refuse: Refuse, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: str
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # Of several ranks only the first one speaks; here it does.
    refuse(["--n_mpi_process", "2", "--arch", "mlp", "--backend", "mpi"], named)


@pytest.mark.parametrize("port", ["99999999", "0", "port", "-1"])
def test_no_port(tmp_path: Path, port: str) -> None:
    variables = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    done = run(tmp_path, "--backend", "gloo", "--arch", "mlp", **variables)
    assert done.returncode == USER_ERROR
    assert "MASTER_PORT" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert listing(tmp_path) == {}
