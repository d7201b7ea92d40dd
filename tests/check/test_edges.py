"""Which edges are measured when, which are called slow, and one that does not answer."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcode.check.edges import MAX_ROWS, Measured, edges_of, schedule, slow, table
from pcode.topology import make_graph
from tests.support.programs import ROOT, run_mpi

SLOW_MPI, SLOW_GLOO = (pytest.param(name, marks=pytest.mark.slow) for name in ("mpi", "gloo"))
SILENT = str(Path(__file__).with_name("one_silent.py"))


def wrong_with_silent(function: str, backend: str, folder: Path) -> set[str]:
    """What three ranks find wrong, of which the last does not return from a function."""
    flags = ("--check", "--arch", "mlp", "--backend", backend, "--time_limit_seconds", "5")
    arguments = [SILENT, "2", function, *flags, "--checkpoint", str(folder)]
    done = run_mpi(3, arguments, timeout=200, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 1, done.stderr
    return set(re.findall(r"^WRONG  (.*)$", done.stdout, re.MULTILINE))


@pytest.mark.parametrize("backend", ["mpi", SLOW_GLOO])
def test_an_edge_that_does_not_answer_is_named(tmp_path: Path, backend: str) -> None:
    (wrong,) = wrong_with_silent("_measure_one", backend, tmp_path)
    assert wrong.startswith(f"ranks 0 and 2 (on {socket.gethostname()}): no answer (")


@pytest.mark.parametrize("backend", [SLOW_MPI, "gloo"])
def test_a_rank_that_does_not_come_is_named(tmp_path: Path, backend: str) -> None:
    (wrong,) = wrong_with_silent("barrier", backend, tmp_path)
    assert wrong.startswith(f"--backend {backend}: rank 2 does not answer: ")


@given(st.data(), st.integers(2, 12))
def test_no_two_edges_of_a_round_share_a_host(data: st.DataObject, num_ranks: int) -> None:
    hosts = data.draw(st.lists(st.sampled_from("abcd"), min_size=num_ranks, max_size=num_ranks))
    edges = edges_of(make_graph("complete", num_ranks, 0))
    rounds = schedule(edges, hosts)
    assert sorted(edge for members in rounds for edge in members) == edges
    for members in rounds:
        busy = [host for edge in members for host in {hosts[rank] for rank in edge}]
        assert len(busy) == len(set(busy))


def test_the_edges_of_a_graph_that_repeats_itself_are_those_of_a_period() -> None:
    # Distances 1, 2 and 4 on 8 nodes, in turn.
    expected = {tuple(sorted((i, (i + distance) % 8))) for i in range(8) for distance in (1, 2, 4)}
    assert edges_of(make_graph("one_peer_exponential", 8, 0)) == sorted(expected)


def edge(i: int, j: int, mbit: float, milliseconds: float = 0.1) -> Measured:
    seconds = milliseconds / 1e3
    return Measured((i, j), seconds, seconds, mbit * 1e6, 2e6 * mbit)


HOSTS = ["a", "a", "b", "b", "c", "c"]


def test_likes_are_compared_with_likes() -> None:
    found = [edge(0, 1, 40_000), edge(2, 3, 40_000), edge(1, 2, 100), edge(3, 4, 100)]
    assert slow(found, HOSTS) == {}
    found += [edge(0, 5, 24), edge(0, 4, 26), edge(0, 3, 100)]
    assert slow(found, HOSTS) == {(0, 5): "24 Mbit/s; the median between hosts is 100"}


def test_an_edge_is_slow_to_answer_beyond_four_medians() -> None:
    found = [edge(1, 2, 100, 1.0), edge(3, 4, 100, 1.0), edge(0, 5, 100, 4.1)]
    assert list(slow(found, HOSTS)) == [(0, 5)]
    found = [edge(1, 2, 100, 0.05), edge(3, 4, 100, 0.05), edge(0, 5, 100, 0.4)]
    assert slow(found, HOSTS) == {}  # the machine's own share of it


def test_memory_that_is_busy_is_no_slow_edge() -> None:
    found = [edge(0, 1, 2_000), edge(2, 3, 40_000), edge(4, 5, 40_000)]
    assert slow(found, HOSTS) == {}
    assert list(slow([edge(0, 1, 900), *found[1:]], HOSTS)) == [(0, 1)]


def test_the_better_of_two_measurements_counts() -> None:
    once, again = edge(0, 1, 10, 1.0), edge(0, 1, 90, 3.0)
    assert once.better(again) == Measured((0, 1), 1e-3, 1e-3, 90e6, 180e6)


def test_a_message_takes_its_bits_and_the_latency() -> None:
    assert edge(0, 1, 8, 2.0).message_seconds(1_000_000) == pytest.approx(1.002)


def test_a_long_table_is_summed_up_by_kind() -> None:
    few = [edge(1, 2, 100 + number) for number in range(MAX_ROWS)]
    assert len(table(few, HOSTS, 1000)) == 1 + MAX_ROWS
    head, *rows = table([*few, edge(0, 1, 5e4)], HOSTS, 1000)
    assert head.split() == "ranks hosts latency ms Mbit/s there Mbit/s back message ms".split()
    kinds = [re.search(r"\((\w+) (within|between)", row) for row in rows]
    assert [match and match.groups() for match in kinds] == [
        (word, kind) for kind in ("between", "within") for word in ("slowest", "median", "fastest")
    ]
    assert " 100 " in rows[0]
    assert " 115 " in rows[2]
