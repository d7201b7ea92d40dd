"""Nodes die or give up, and the others go on: real processes under a real mpirun, and sim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pcode.communication import Communicator, Simulation
from pcode.utils.errors import CommunicationError
from tests.communication.survivors import Tale, check_all, exchanging, report
from tests.support.programs import run_mpi

TIMEOUT_SECONDS = 120.0  # of a machine that is busy
DIED = "the node died (its process has ended)"


def survive(scenario: str, folder: Path) -> dict[int, list[dict[str, Any]]]:
    """What each rank that lived has to tell, by its first rank."""
    argv = ["-m", "tests.communication.survivors", scenario, str(folder)]
    done = run_mpi(4, argv, TIMEOUT_SECONDS, options=("--with-ft", "ulfm"))
    # Whoever lives ends well, and so does mpirun.
    assert done.returncode == 0, done.stderr
    return {
        int(path.stem): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.iterdir())
    }


def check_deaths(tales: dict[int, list[dict[str, Any]]], deaths: list[list[int]]) -> None:
    """Each recovery has lost the ranks in `deaths`, and is renumbered on all who live."""
    alive = list(range(4))
    for number, dead in enumerate(deaths):
        expected = [rank for rank in range(len(alive)) if rank not in dead]
        alive = [alive[rank] for rank in expected]
        entries = {first: tales[first][number] for first in alive if first in tales}
        assert all(entry["survivors"] == expected for entry in entries.values()), entries
        assert all(entry["rank"] == alive.index(first) for first, entry in entries.items())
        assert all(entry["step"] is not None for entry in entries.values()), entries
        noticed = [entry["text"] for entry in entries.values() if not entry["reported_by_peer"]]
        assert all(f"peer {dead[0]}, step" in text and DIED in text for text in noticed), noticed
        assert len(noticed) <= 1
    assert list(tales) == alive
    assert {len(entries) for entries in tales.values()} == {len(deaths)}


@pytest.mark.parametrize(
    ("scenario", "deaths"),
    [("exchange_ring", [[2], [1]]), ("all_gather", [[1], [0]]), ("under_way", [[3]])],
)
def test_survivors_of_deaths_go_on(scenario: str, deaths: list[list[int]], tmp_path: Path) -> None:
    tales = survive(scenario, tmp_path)
    check_deaths(tales, deaths)


@pytest.mark.parametrize("scenario", ["first_and_last", "while_recovering"])
def test_two_deaths_at_once_are_survived_in_one_recovery_or_two(
    scenario: str, tmp_path: Path
) -> None:
    tales = survive(scenario, tmp_path)
    assert list(tales) == [1, 2]
    for place, entries in enumerate(tales.values()):
        assert [entry["survivors"] for entry in entries] in (
            [[1, 2]],
            [[0, 1, 2], [1, 2]],  # the last was lost first
            [[1, 2, 3], [0, 1]],  # the first was
        )
        assert entries[-1]["rank"] == place


def check_reports(tales: dict[int, list[dict[str, Any]]]) -> None:
    for rank, entries in tales.items():
        for entry, diverged in zip(entries, (1, 0), strict=True):
            assert (entry["survivors"], entry["rank"]) == ([0, 1, 2, 3], rank)
            if rank != diverged:
                assert entry["reported_by_peer"]
                assert f"rank {diverged} reported: " in entry["text"]
                assert "step 3: not finite" in entry["text"]


def test_ranks_recover_from_a_report_without_a_death(tmp_path: Path) -> None:
    check_reports(survive("report", tmp_path))


def test_simulated_nodes_recover_from_reports_and_always_alike() -> None:
    def node(communicator: Communicator) -> list[dict[str, Any]]:
        tale = Tale(communicator)
        check_all(communicator)
        report(tale)
        return [{**entry, "seconds": 0} for entry in tale.entries]

    tales = Simulation(4).run(node)
    check_reports(dict(enumerate(tales)))
    assert Simulation(4).run(node) == tales


def test_messages_from_before_a_recovery_do_not_arrive_after_it() -> None:
    def node(communicator: Communicator) -> float:
        peer = 1 - communicator.rank
        communicator.exchange({peer: torch.tensor([1.0])}, {peer: torch.zeros(1)}, 0)
        communicator.barrier(0)
        if communicator.rank == 1:
            with pytest.raises(CommunicationError):
                communicator.barrier(0)
        communicator, _ = communicator.recover("" if communicator.rank else "not finite")
        got = torch.zeros(1)
        communicator.exchange({peer: torch.tensor([2.0])}, {peer: got}, 1).wait()
        return float(got)

    assert Simulation(2).run(node) == [2.0, 2.0]


def test_a_simulated_node_that_fails_ends_those_that_recover() -> None:
    def node(communicator: Communicator) -> None:
        if communicator.rank == 0:
            communicator.recover("not finite")
        try:
            exchanging(communicator, 0)
        except CommunicationError:
            if communicator.rank == 1:
                raise ZeroDivisionError("node 1 broke") from None
            communicator.recover()

    with pytest.raises(ZeroDivisionError, match="node 1 broke"):
        Simulation(3).run(node)
