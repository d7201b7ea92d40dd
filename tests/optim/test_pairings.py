"""Every law with every compressor: the same bits under mpi, gloo and sim, overlapped or not."""

from __future__ import annotations

import json

import pytest

from pcode.communication import Simulation
from tests.optim.pairings import digests, pairings
from tests.support.programs import run_mpi

NUM_NODES = 4


@pytest.fixture(scope="module")
def simulated() -> list[dict[str, str]]:
    return Simulation(NUM_NODES).run(digests)


def test_overlapped_is_sequential_and_nodes_differ(simulated: list[dict[str, str]]) -> None:
    for pairing in pairings():
        found = [digests[json.dumps(pairing)] for digests in simulated]
        other = json.dumps(pairing._replace(overlap=False))
        for own, of_node in zip(found, simulated, strict=True):
            assert of_node.get(other, own) == own  # the variants run in one way only
        if pairing.law not in ("ef_sign_sgd", "dgc", "sgd"):
            assert len(set(found)) == NUM_NODES, pairing


def test_another_simulation_gives_the_same(simulated: list[dict[str, str]]) -> None:
    assert Simulation(NUM_NODES).run(digests) == simulated


@pytest.mark.parametrize("backend", ["mpi", "gloo"])
def test_real_processes_give_the_same(backend: str, simulated: list[dict[str, str]]) -> None:
    done = run_mpi(NUM_NODES, ["-m", "tests.optim.pairings", backend], timeout=250)
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 2) for line in done.stdout.splitlines() if line.startswith("RANK")]
    found = {int(rank): json.loads(content) for _, rank, content in lines}
    assert sorted(found) == list(range(NUM_NODES))
    for rank, expected in enumerate(simulated):
        assert found[rank] == expected
