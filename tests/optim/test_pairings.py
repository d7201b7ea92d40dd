"""Every optimizer with every compressor: the same bits under mpi, gloo, sim, overlapped or not."""

from __future__ import annotations

import json

import pytest

from pcode.communication import Simulation
from tests.optim.pairings import digests, pairings
from tests.support.worlds import World, started

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
        if pairing.optimizer not in ("ef_sign_sgd", "dgc", "sgd"):
            assert len(set(found)) == NUM_NODES, pairing


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> World:
    return started("tests.optim.pairings", NUM_NODES, tmp_path_factory, pytestconfig)


@pytest.mark.parametrize("backend", ["mpi", "gloo"])
def test_real_processes_give_the_same(
    backend: str, world: World, simulated: list[dict[str, str]]
) -> None:
    failures = world.failures(backend, "digests")
    assert not failures, failures
    for rank, expected in enumerate(simulated):
        found = (world.folder / f"{backend}.{rank}.json").read_text(encoding="utf-8")
        assert json.loads(found) == expected


def test_real_processes_end_well(world: World) -> None:
    assert not world.end, world.end
