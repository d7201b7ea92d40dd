"""Whole runs over several hosts: the same bits, the bytes that were counted, links that fail."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.run.runs import finished, summary
from tests.run.started import Started, started
from tests.support.hosts import Hosts

__all__ = ["started"]

SMALL = ("--arch", "resnet8", "--num_epochs", "2", "--graph_topology", "ring")


def over(hosts: Hosts, folder: Path, slots: int) -> tuple[str, ...]:
    """The flags of a run over all hosts."""
    hostfile = folder / "hostfile"
    hosts.write_hostfile(hostfile, slots)
    nodes = len(hosts.names) * slots
    return ("--hostfile", str(hostfile), "--n_mpi_process", str(nodes))


@pytest.fixture(scope="module")
def one_host(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The digests of 8 nodes under mpirun on this machine."""
    folder = tmp_path_factory.mktemp("one_host")
    result = finished(folder, *SMALL, "--n_mpi_process", "8")
    found: list[str] = result["parameters_sha256"]
    assert len(set(found)) == 8
    return found


@pytest.mark.parametrize("backend", ["mpi", pytest.param("gloo", marks=pytest.mark.slow)])
def test_eight_ranks_on_four_hosts_give_the_bits_of_one(
    four_hosts: Hosts, tmp_path: Path, one_host: list[str], backend: str
) -> None:
    flags = (*SMALL, *over(four_hosts, tmp_path, 2), "--backend", backend)
    before = four_hosts.command("host-1", [], tmp_path)
    result = finished(tmp_path, *flags, before=before, **four_hosts.variables)
    assert result["parameters_sha256"] == one_host
    assert all(four_hosts.bytes_sent(name) > 1e6 for name in four_hosts.names)


@pytest.mark.slow
def test_bytes_on_the_links_are_those_that_were_counted(four_hosts: Hosts, tmp_path: Path) -> None:
    # On top come headers, acknowledgements, the start, and the evaluation of the averaged model,
    # which sends the whole of it: enough steps make them small.
    steps = ("--num_epochs", "12", "--batch_size", "2", "--lr", "0.01", "--train_fast", "True")
    model = ("--arch", "mlp", "--mlp_hidden_size", "4096")
    before = four_hosts.command("host-1", [], tmp_path)
    flags = (*steps, *model, *over(four_hosts, tmp_path, 1))
    result = finished(tmp_path, *flags, before=before, **four_hosts.variables)
    on_links = sum(map(four_hosts.bytes_sent, four_hosts.names))
    assert 1 < on_links / result["bytes_sent_total"] < 1.05


LONG = ("--arch", "resnet8", "--num_epochs", "6", "--graph_topology", "ring", "--batch_size", "8")


def start_over(hosts: Hosts, folder: Path, *flags: str) -> Started:
    """A run of four nodes on four hosts that has ended its first epoch."""
    folder.mkdir(exist_ok=True)
    before = hosts.command("host-1", [], folder)
    flags = (*LONG, *over(hosts, folder, 1), *flags)
    run = Started(folder, *flags, before=before, **hosts.variables)
    run.await_text(b"epoch   1")
    return run


@pytest.mark.slow
def test_a_run_outlives_a_link_that_is_cut_for_five_seconds(
    four_hosts: Hosts, tmp_path: Path, started: list[Started]
) -> None:
    undisturbed = finished(tmp_path, *LONG, "--n_mpi_process", "4", "--backend", "sim")
    run = start_over(four_hosts, tmp_path / "over")
    started.append(run)
    four_hosts.network.set_way("host-2", "host-3", 0)
    time.sleep(5)
    assert run.process.poll() is None
    assert run.read_on().count(b"epoch ") <= 2  # the one that was under way may have ended
    four_hosts.network.clear_way("host-2", "host-3")
    assert run.status() == 0, run.errors
    assert summary(tmp_path / "over")["parameters_sha256"] == undisturbed["parameters_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["mpi", "gloo"])
@pytest.mark.parametrize("ends", [("host-2", "host-3"), ("host-1", "host-4")], ids="-".join)
def test_a_link_cut_for_longer_than_the_limit_ends_all_and_is_named(
    four_hosts: Hosts,
    tmp_path: Path,
    started: list[Started],
    backend: str,
    ends: tuple[str, str],
) -> None:
    limit = ("--time_limit_seconds", "5", "--num_epochs", "1000")
    run = start_over(four_hosts, tmp_path, *limit, "--backend", backend)
    started.append(run)
    four_hosts.network.set_way(*ends, 0)
    # A process that the launcher's host does not reach ends only when it is reached again.
    run.process.wait(120)
    four_hosts.network.clear_way(*ends)
    assert run.status() == 1, run.errors
    one, other = (four_hosts.names.index(name) for name in ends)
    named = re.search(
        rf"rank ({one}, peer {other}|{other}, peer {one}), step \d+: ", run.errors.decode()
    )
    assert named is not None, run.errors.decode()
