"""Checks without a hostfile: mpirun, one process, and ranks that others have started."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
import torch

from pcode.check.hosts import divided, place_ranks
from pcode.launch.hostfile import Host
from tests.check.checking import FLAGS, check, read
from tests.run.bad_input import Refuse, refuse
from tests.run.runs import RUN, run
from tests.support.programs import find_mpirun, mpirun_of_a_user, quick_python

__all__ = ["refuse"]


@pytest.mark.parametrize("backend", ["mpi", pytest.param("gloo", marks=pytest.mark.slow)])
def test_this_machine_is_fine(tmp_path: Path, backend: str) -> None:
    checked = check(tmp_path, "--backend", backend, "--n_mpi_process", "3")
    flags, mpirun, host, edges = checked.marked("ok")
    assert flags == f"flags: mlp on digits, 3 nodes, ring, --backend {backend}"
    beside = Path(quick_python()).with_name("mpirun")
    assert mpirun.endswith(f", {beside if beside.exists() else find_mpirun()}")
    assert host.startswith("this machine: ranks 0 to 2, Python ")
    assert f"torch {torch.__version__.split('+')[0]}" in host
    assert edges.startswith(f"all edges of ring (3) answer over {backend}; ")
    assert checked.output.count("this machine  ") == 3


def test_processes_of_a_node_are_ranks_and_the_first_ones_have_edges(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()  # a path relative to where the user is, not to itself
    checked = check(tmp_path, "--n_sub_process", "2", "--work_dir", "there")
    flags, _, host, edges = checked.marked("ok")
    assert flags.startswith("flags: mlp on digits, 2 nodes of 2 processes, ring, ")
    assert host.startswith("this machine: ranks 0 to 3, ")
    assert edges.startswith("all edges of ring (1) answer over mpi; ")
    assert "0-2    this machine  " in checked.output


def test_nodes_that_hosts_divide() -> None:
    placed = place_ranks((Host("a", 3), Host("b", 2), Host("c", 9)), 8)
    assert divided(placed, 1) == []
    assert divided(placed, 2) == [["a", "b"], ["b", "c"]]
    assert divided(placed, 8) == [["a", "b", "c"]]
    assert divided(place_ranks((), 8), 2) == []


@pytest.mark.parametrize("flags", [("--backend", "sim"), ("--n_mpi_process", "1")])
def test_one_process_needs_no_mpi(tmp_path: Path, flags: tuple[str, ...]) -> None:
    checked = check(tmp_path, *flags)
    assert [line.partition(":")[0] for line in checked.marked("ok")] == ["flags", "this machine"]


def test_ranks_that_mpirun_has_started_check_themselves(tmp_path: Path) -> None:
    done = run(tmp_path, *FLAGS, before=mpirun_of_a_user(3, tmp_path))
    host, edges = read(done, tmp_path).marked("ok")
    assert host.startswith(f"{socket.gethostname()}: ranks 0 to 2, ")
    assert edges.startswith("all edges of ring (3) answer over mpi; ")


def test_ranks_that_torchrun_has_started_check_themselves(tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [quick_python(), *torchrun, RUN, "--checkpoint", "runs", *FLAGS],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # where torchrun leaves a folder
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "all edges of ring (1) answer over gloo; " in done.stdout
    assert done.stdout.endswith("nothing is wrong\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_graph_without_end(tmp_path: Path) -> None:
    checked = check(
        tmp_path,
        "--optimizer",
        "sgd",
        "--graph_topology",
        "one_peer_exponential",
        "--n_mpi_process",
        "4",
    )
    assert checked.wrong == []
    assert "all edges of one_peer_exponential (6) answer" in checked.output


def test_an_mpi_that_the_ranks_cannot_use(tmp_path: Path) -> None:
    checked = check(tmp_path, "--mpi_env", "OMPI_MCA_pml=none_such")
    (wrong,) = checked.wrong
    assert wrong.startswith("ranks do not start or join over mpi: ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpus_that_are_asked_for_and_absent(tmp_path: Path) -> None:
    checked = check(tmp_path, "--on_cuda", "True", "--world", "0,1", "--n_mpi_process", "2")
    assert checked.wrong[0] == "this machine: --on_cuda True, --world: no GPU 0, 1 there (it has 0)"


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--check", "--dry_run"], "--dry_run"),
        (["--check", "--data", "digit"], "--data 'digit'"),
        (["--check", "--data", "cifar10"], "--data cifar10"),
        (["--check", "--hostfile", "nowhere"], "--hostfile nowhere"),
        (["--check=1"], "--check"),
    ],
)
def test_mistakes_are_refused_as_ever(refuse: Refuse, flags: list[str], named: str) -> None:
    refuse(flags, named)
