"""The contract of communicators on simulated nodes, and failures under sim, mpi and gloo."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch

from pcode.communication import Communicator, ProcessCommunicator, Simulation, by_nodes
from pcode.utils.errors import CommunicationError
from tests.communication.contract import (
    CHECKS,
    SILENT_RANK,
    checks_of,
    neighbours,
)
from tests.support.cases import failure
from tests.support.operations import Operations
from tests.support.programs import run_mpi

PROGRAM = ["-m", "tests.communication.contract"]


@cache
def simulated(num_nodes: int, local_size: int) -> list[dict[str, str]]:
    """The failure of each check, or "", on each process."""

    def process(processes: ProcessCommunicator) -> dict[str, str]:
        checks = checks_of(by_nodes(processes, local_size, 1.0))
        return {name: failure(check) for name, check in checks.items()}

    return Simulation(num_nodes * local_size).run(process)


def read_reports(output: str) -> list[dict[str, Any]]:
    """What ranks have printed: mpirun may run the lines of two together."""
    decoder, text, reports = json.JSONDecoder(), output.strip(), []
    while text:
        report, end = decoder.raw_decode(text)
        reports.append(report)
        text = text[end:].strip()
    return reports


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    ("num_nodes", "local_size"), [(1, 1), (2, 1), (4, 1), (64, 1), (3, 3), (1, 2), (9, 2)]
)
def test_contract_of_simulated_nodes(num_nodes: int, local_size: int, check: str) -> None:
    outcomes = simulated(num_nodes, local_size)
    assert [outcome[check] for outcome in outcomes] == [""] * (num_nodes * local_size)


STAGED, BESIDE = (
    pytest.param(name, marks=pytest.mark.slow) for name in ("mpi+staged", "gloo+beside")
)


@pytest.mark.parametrize("backend", ["mpi", "gloo", STAGED, BESIDE])
def test_a_silent_rank_is_an_error_on_every_other(backend: str) -> None:
    done = run_mpi(4, [*PROGRAM, backend, "1"], timeout=120)
    assert done.returncode != 0
    reports = {report["rank"]: report for report in read_reports(done.stdout)}
    assert set(reports) == {0, 1, 2, 3} - {SILENT_RANK}
    for rank, report in reports.items():
        assert f"rank {rank}" in report["error"] or f"rank {SILENT_RANK}" in report["error"]
        assert "step" in report["error"]
    beside = {(SILENT_RANK - 1) % 4, (SILENT_RANK + 1) % 4}
    named = [reports[rank]["error"] for rank in beside]
    assert any(f"peer {SILENT_RANK}, step 3" in error for error in named), named


def test_errors_of_nodes_of_several_processes_name_nodes() -> None:
    done = run_mpi(4, [*PROGRAM, "mpi", "2"], timeout=120)
    assert done.returncode != 0
    errors = [report["error"] for report in read_reports(done.stdout)]
    assert len(errors) == 2
    assert any(
        error.startswith("rank 0, peer 1, step 3: no message within the timeout of 3 s")
        for error in errors
    )
    assert all(error.startswith("rank 0, ") for error in errors)


def test_all_ranks_take_part_in_a_split_of_nccl_s_communicator() -> None:
    """Where one takes part in a split more than another, both wait for ever."""
    done = run_mpi(4, ["-m", "tests.communication.splits"], timeout=120)
    assert done.returncode == 0, done.stderr
    reports = read_reports(done.stdout)
    # Of two nodes, and of their first processes.
    assert sorted((report["rank"], report["splits"]) for report in reports) == [
        (rank, 3) for rank in range(4)
    ]


def test_nodes_of_several_processes_do_not_recover() -> None:
    def process(processes: ProcessCommunicator) -> None:
        node = by_nodes(processes, 2, 1.0)
        with pytest.raises(
            CommunicationError, match=f"rank {processes.rank // 2}: .* cannot go on"
        ):
            node.recover()

    Simulation(4).run(process)


def test_simulated_nodes_take_turns_in_the_same_order() -> None:
    def trace(num_nodes: int) -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []

        def node(communicator: Communicator) -> None:
            peers = neighbours(communicator)
            for step in range(5):
                seen.append((communicator.rank, step))
                got = {peer: torch.zeros(1) for peer in peers}
                communicator.exchange(dict.fromkeys(peers, torch.zeros(1)), got, step).wait()

        Simulation(num_nodes).run(node)
        return seen

    first = trace(16)
    assert len(first) == 16 * 5
    assert all(trace(16) == first for _ in range(3))


def test_a_message_to_several_peers_is_copied_once() -> None:
    def node(communicator: Communicator) -> list[int]:
        peers = [peer for peer in range(4) if peer != communicator.rank]
        got = {peer: torch.zeros(1) for peer in peers}
        message = torch.zeros(1)
        with Operations() as operations:
            exchange = communicator.exchange(dict.fromkeys(peers, message), got)
        exchange.wait()
        return [operations.counts["clone"]]

    assert Simulation(4).run(node) == [[1]] * 4


def test_a_failing_simulated_node_ends_all_and_its_error_is_the_run_s() -> None:
    errors: dict[int, CommunicationError] = {}

    def node(communicator: Communicator) -> None:
        peers = neighbours(communicator)
        for step in range(10):
            if communicator.rank == 2 and step == 3:
                raise ZeroDivisionError("node 2 broke")
            got = {peer: torch.zeros(1) for peer in peers}
            try:
                communicator.exchange(dict.fromkeys(peers, torch.zeros(1)), got, step).wait()
            except CommunicationError as error:
                errors[communicator.rank] = error
                raise

    with pytest.raises(ZeroDivisionError, match="node 2 broke"):
        Simulation(5).run(node)
    assert set(errors) == {0, 1, 3, 4}
    assert all("rank 2 failed: node 2 broke" in str(error) for error in errors.values())
    assert all(error.step is not None for error in errors.values())


@pytest.mark.parametrize("local_size", [1, 2])
def test_simulated_nodes_that_wait_for_each_other_are_an_error_not_a_hang(local_size: int) -> None:
    """The error names nodes, also where each is two processes."""

    def process(processes: ProcessCommunicator) -> None:
        node = by_nodes(processes, local_size, 1.0)
        node.exchange({}, {1 - node.rank: torch.zeros(1)}, step=7).wait()

    with pytest.raises(CommunicationError, match=r"rank 0, peer 1, step 7: no node can go on"):
        Simulation(2 * local_size).run(process)


def test_a_simulated_message_of_another_size_is_an_error() -> None:
    def node(communicator: Communicator) -> None:
        peer = 1 - communicator.rank
        sent, expected = torch.zeros(4), torch.zeros(5)
        communicator.exchange({peer: sent}, {peer: expected}, step=0).wait()

    with pytest.raises(CommunicationError, match="16 bytes arrived where 20 were expected"):
        Simulation(2).run(node)
