"""Who am I: the variables that mpirun, torchrun and Slurm set, and those that only look so."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcode.launch.environment import (
    RankEnvironment,
    check_ranks,
    detect,
    hosts_of,
    num_nodes_of,
    rendezvous_address,
)
from pcode.utils.errors import UserError

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_RANK": "3",
    "PMIX_NAMESPACE": "prterun-host-1@1",
}
HYDRA = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "first",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
}
PYTORCH_JOB = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "first", "MASTER_PORT": "23456"}
BATCH = {
    "SLURM_JOB_ID": "81",
    "SLURM_JOB_NODELIST": "gpu[07-09]",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_TASKS_PER_NODE": "3(x2),2",
}
STEP = BATCH | {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "3(x2),2",
    "SLURM_STEP_NODELIST": "gpu[07-09]",
    "SLURM_PROCID": "7",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
}
ONE_TASK = STEP | {
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"RANK": "3"}, None),
        (OPEN_MPI, RankEnvironment("mpi", 3, 4, 1, 2)),
        (HYDRA, RankEnvironment("mpi", 3, 4, 1, 2)),
        (TORCHRUN, RankEnvironment("torchrun", 3, 4, 1, 2)),
        (PYTORCH_JOB, RankEnvironment("torchrun", 3, 4, 0, 1)),
        (STEP, RankEnvironment("slurm", 7, 8, 1, 2)),
        (STEP | {"PMIX_RANK": "7"}, RankEnvironment("mpi", 7, 8, 1, 2)),
        (STEP | {"PMI_RANK": "7", "PMI_SIZE": "8"}, RankEnvironment("mpi", 7, 8, 1, 2)),
        # The innermost launcher counts.
        (BATCH | OPEN_MPI, RankEnvironment("mpi", 3, 4, 1, 2)),
        (STEP | OPEN_MPI, RankEnvironment("mpi", 3, 4, 1, 2)),
        (STEP | TORCHRUN, RankEnvironment("torchrun", 3, 4, 1, 2)),
        (OPEN_MPI | TORCHRUN, RankEnvironment("torchrun", 3, 4, 1, 2)),
        # The shells of sbatch, of an interactive salloc and of `srun --pty`.
        (BATCH, None),
        (BATCH | {"SLURM_STEP_ID": "batch"}, None),
        (BATCH | {"SLURM_STEP_ID": str(0xFFFFFFFB)}, None),
        (BATCH | {"SLURM_STEP_ID": str(0xFFFFFFFA)}, None),
        (ONE_TASK, None),
        (ONE_TASK | {"PMIX_RANK": "0"}, None),
        (ONE_TASK | {"PMI_RANK": "0", "PMI_SIZE": "1"}, None),
    ],
)
def test_detection(environ: dict[str, str], expected: RankEnvironment | None) -> None:
    assert detect(environ) == expected


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "four"}, "OMPI_COMM_WORLD_SIZE='four'"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "-1"}, "OMPI_COMM_WORLD_RANK='-1'"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "4"}, "contradicts itself: rank 4 of 4"),
        ({"OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_SIZE is not set"),
        ({"PMIX_RANK": "0"}, "start the ranks with mpirun"),
        (TORCHRUN | {"WORLD_SIZE": "0"}, "WORLD_SIZE='0'"),
        (TORCHRUN | {"LOCAL_RANK": "2"}, "local rank 2 of 2"),
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "3(x"}, "SLURM_STEP_TASKS_PER_NODE='3(x'"),
        (STEP | {"SLURM_NODEID": "3"}, "SLURM_NODEID=3"),
        (STEP | {"SLURM_STEP_NUM_TASKS": ""}, "SLURM_STEP_NUM_TASKS=''"),
    ],
)
def test_bad_values_are_refused(environ: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        detect(environ)


def test_ranks_must_fit_the_flags() -> None:
    place = RankEnvironment("mpi", 0, 4, 0, 4)
    check_ranks(place, "mpi", 4, 1)
    with pytest.raises(UserError, match="--n_mpi_process 2: 4 ranks were started"):
        check_ranks(place, "mpi", 2, 1)
    with pytest.raises(UserError, match="--backend sim"):
        check_ranks(place, "sim", 4, 1)
    check_ranks(place, "mpi", 2, 2)
    with pytest.raises(UserError, match=r"--n_sub_process 2: 4 ranks were .*; 8 are needed"):
        check_ranks(place, "mpi", 4, 2)


def test_ranks_are_whole_nodes() -> None:
    place = RankEnvironment("slurm", 0, 6, 0, 6)
    assert [num_nodes_of(place, num_parts) for num_parts in (1, 2, 3, 6)] == [6, 3, 2, 1]
    with pytest.raises(UserError, match="--n_sub_process 4: 6 ranks were started"):
        num_nodes_of(place, 4)


def test_rendezvous_is_what_the_variables_say() -> None:
    assert rendezvous_address(TORCHRUN) == ("first", 29500)
    assert rendezvous_address(STEP | PYTORCH_JOB) == ("first", 23456)
    with pytest.raises(UserError, match="MASTER_PORT='x'"):
        rendezvous_address(TORCHRUN | {"MASTER_PORT": "x"})
    with pytest.raises(UserError, match="MASTER_PORT=65536"):
        rendezvous_address(TORCHRUN | {"MASTER_PORT": "65536"})


def test_ranks_of_a_slurm_step_derive_the_same_rendezvous() -> None:
    host, port = rendezvous_address(STEP)
    assert host == "gpu07"
    assert 1024 < port < 32768
    assert rendezvous_address(STEP | {"SLURM_PROCID": "0", "SLURM_NODEID": "0"}) == (host, port)
    assert rendezvous_address(STEP | {"SLURM_STEP_ID": "1"}) != (host, port)


def test_ranks_of_mpirun_derive_a_rendezvous_on_one_machine_only() -> None:
    alone = OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_RANK": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
    host, port = rendezvous_address(alone)
    assert host == "127.0.0.1"
    assert rendezvous_address(alone | {"OMPI_COMM_WORLD_RANK": "1"}) == (host, port)
    for environ in (OPEN_MPI, HYDRA, {}):
        with pytest.raises(UserError, match="--mpi_env MASTER_ADDR=HOST,MASTER_PORT=PORT"):
            rendezvous_address(environ)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("node1", "node1"),
        ("node[01-03,7]", "node01"),
        ("node[7,01-03]", "node7"),
        ("a,b[1-2],c", "a"),
        ("b[1-2],c", "b1"),
        ("r[1-2]n[8-9]x", "r1n8x"),
        ("n[098-101]", "n098"),
        ("", None),
    ],
)
def test_first_host_of_a_nodelist(text: str, host: str | None) -> None:
    assert next(hosts_of(text), None) == host


def test_all_hosts_of_a_nodelist() -> None:
    assert list(hosts_of("n[08-10,2],r[1-2]n[8-9]x,login")) == [
        *("n08", "n09", "n10", "n2", "r1n8x", "r1n9x", "r2n8x", "r2n9x", "login")
    ]


@pytest.mark.parametrize(
    "text", ["node[1", "node]", "n[]", "n[a-b]", "n[3-1]", "n[1-2-3]", "n[1]]"]
)
def test_malformed_nodelist_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="Slurm's environment"):
        list(hosts_of(text))


@given(st.text(st.sampled_from("ab19[],-"), max_size=12))
def test_any_nodelist_gives_a_first_host_or_one_line(text: str) -> None:
    message = "one line"
    try:
        first = next(hosts_of(text), None)
    except UserError as error:
        first, message = "refused", str(error)
    assert first or not text.strip(",")
    assert len(message.splitlines()) == 1
