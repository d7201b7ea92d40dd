"""python -m pcode.tools.advise on ranks that it starts."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.hosts import Hosts
from tests.support.programs import quick_python, run_program

SMALL = ("--arch", "mlp", "--num_threads", "1")
LIMIT_SECONDS = 280


def advise_over(hosts: Hosts, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Ask on the first of several hosts about all of them, a node on each."""
    hostfile = folder / "hostfile"
    hosts.write_hostfile(hostfile, 1)
    nodes = ("--hostfile", str(hostfile), "--n_mpi_process", str(len(hosts.names)))
    command = [quick_python(), "-m", "pcode.tools.advise", *SMALL, *nodes, *flags]
    before = hosts.command("host-1", [], folder)
    variables = {"OMP_NUM_THREADS": "1", **hosts.variables}
    return run_program([*before, *command], folder, LIMIT_SECONDS, variables)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["mpi", "gloo"])
def test_hosts_are_measured(four_hosts: Hosts, tmp_path: Path, backend: str) -> None:
    for name in four_hosts.names:
        four_hosts.network.set_rate(name, 100)
    four_hosts.network.set_way("host-2", "host-3", 10)
    model = ("--mlp_hidden_size", "512", "--backend", backend)
    files = ("--output", "figures.json", "--picture", "steps.pdf")
    done = advise_over(four_hosts, tmp_path, *model, *files)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    content = json.loads((tmp_path / "figures.json").read_text())
    edges = {tuple(each["edge"]): each for each in content["edges"]}
    assert list(edges) == [(0, 1), (0, 3), (1, 2), (2, 3)]
    # Never faster than the link; what else runs here only makes it slower.
    assert max(edges[1, 2]["there"], edges[1, 2]["back"]) < 13e6
    assert content["link_mbit"] < 130
    found = {each["title"]: each for each in content["methods"]}
    # A message of D-PSGD over the slow edge.
    least = 8 * found["D-PSGD"]["cost"]["message_bytes"] / 13e6
    assert found["D-PSGD"]["waiting_seconds"] > least
    assert found["CHOCO, sign"]["step_seconds"] < found["D-PSGD"]["step_seconds"]
    assert "host-2, host-3" in done.stdout
    assert f"Take {content['advice']}: run.py " in done.stdout
    assert (tmp_path / "steps.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_a_link_that_is_cut_ends_all_and_is_named(four_hosts: Hosts, tmp_path: Path) -> None:
    four_hosts.network.set_way("host-2", "host-3", 0)
    (tmp_path / "of_ranks").mkdir()
    flags = ("--time_limit_seconds", "10", "--output", "figures.json", "--work_dir", "of_ranks")
    done = advise_over(four_hosts, tmp_path, *flags)
    assert done.returncode == 1, done.stdout
    assert not (tmp_path / "figures.json").exists()
    assert done.stderr.startswith("advise: error: ")
    assert done.stderr.count("\n") == 1
    assert "1 and 2 (host-2 and host-3)" in done.stderr


def test_ranks_that_do_not_join(tmp_path: Path) -> None:
    command = [quick_python(), "-m", "pcode.tools.advise", *SMALL]
    wrong = ("--mpi_env", "OMPI_MCA_pml=none_such", "--output", "figures.json")
    done = run_program([*command, *wrong], tmp_path, LIMIT_SECONDS, {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 1
    assert done.stderr.startswith("advise: error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "figures.json").exists()
