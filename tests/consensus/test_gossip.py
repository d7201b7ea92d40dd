"""Gossip on all nodes at once: the optimizer's recursion, the mean, the rate, and divergence."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from pcode.communication import Communicator, Simulation
from pcode.communication.base import NoCommunicator
from pcode.compression import COMPRESSORS, make_compressor
from pcode.consensus import Consensus, Course, gossip, measure, slowest_mode
from pcode.consensus.simulate import StackedGossip
from pcode.optim import DeepSqueeze, ParallelChoco
from pcode.topology import make_topology
from pcode.utils.layout import Layout
from pcode.utils.options import options_of
from tests.consensus.every_fourth import EveryFourth

SIZES = (5, 1, 16)
LAYOUT = Layout.of_sizes(SIZES)
OPTIONS = {"compress_ratio": 0.5, "quantize_level": 8, "is_biased": True}


def starting(num_nodes: int, num_entries: int = LAYOUT.num_entries) -> torch.Tensor:
    return torch.randn(num_nodes, num_entries, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["none", "sign"])
@pytest.mark.parametrize(("graph", "num_nodes"), [("ring", 8), ("torus", 9), ("complete", 3)])
@pytest.mark.parametrize("kind", [ParallelChoco, DeepSqueeze])
def test_it_is_the_optimizer_without_gradients(
    kind: type[ParallelChoco | DeepSqueeze], graph: str, num_nodes: int, name: str
) -> None:
    topology, start = make_topology(graph, num_nodes), starting(num_nodes)
    num_rounds, gamma = 20, 0.4
    # CHOCO mixes the last round in at the start of its next step.
    num_steps = num_rounds + (kind is ParallelChoco)

    def node(communicator: Communicator) -> torch.Tensor:
        views = LAYOUT.views(start[communicator.rank].clone())
        params = [torch.nn.Parameter(view) for view in views]
        optimizer = kind(
            params,
            communicator,
            topology,
            compressor=make_compressor(name),
            consensus_stepsize=gamma,
            lr=0.1,
        )
        for _ in range(num_steps):
            optimizer.zero_grad()
            optimizer.step()
        optimizer.finish()
        return optimizer.x

    expected = torch.stack(Simulation(num_nodes).run(node))
    consensus = Consensus(kind, topology, make_compressor(name), LAYOUT, start, gamma=gamma)
    gossip(consensus, num_rounds)
    assert torch.linalg.vector_norm(consensus.x - expected) <= 1e-5 * expected.norm()


@pytest.mark.parametrize("kind", [ParallelChoco, DeepSqueeze])
@pytest.mark.parametrize("name", COMPRESSORS)
def test_the_mean_stays(name: str, kind: type[ParallelChoco | DeepSqueeze]) -> None:
    compressor = make_compressor(
        name, **{flag: OPTIONS[flag] for flag in options_of(COMPRESSORS[name])}
    )
    start = starting(32) + 3
    consensus = Consensus(kind, make_topology("torus", 32), compressor, LAYOUT, start, gamma=0.02)
    assert not gossip(consensus, 2000, every=100).diverged
    drift = consensus.x.mean(dim=0) - start.double().mean(dim=0)
    assert drift.abs().max() < 1e-12


@pytest.mark.parametrize(
    ("graph", "num_nodes", "gamma", "rounds"),
    [("ring", 16, 1.0, 250), ("ring", 32, 0.8, 900), ("torus", 25, 0.6, 100)],
)
def test_the_rate_is_the_gap(graph: str, num_nodes: int, gamma: float, rounds: int) -> None:
    topology = make_topology(graph, num_nodes)
    found = measure(topology, "none", make_compressor("none"), LAYOUT, rounds=rounds, gamma=gamma)
    assert found.course.decay() == pytest.approx(gamma * topology.spectral_gap, rel=0.1)


def test_the_rate_with_sign_and_a_small_gamma() -> None:
    topology, layout = make_topology("ring", 16), Layout.of_sizes([8])
    found = measure(topology, "sign", make_compressor("sign"), layout, rounds=800, gamma=0.2)
    assert found.course.decay() == pytest.approx(0.2 * topology.spectral_gap, rel=0.1)


def test_the_slowest_start_decays_at_its_rate_at_once() -> None:
    topology = make_topology("ring", 100)
    found = measure(
        topology, "none", make_compressor("none"), LAYOUT, rounds=100, gamma=0.5, start="slowest"
    )
    errors = found.course.errors
    ratios = [later / earlier for earlier, later in pairwise(errors)]
    np.testing.assert_allclose(ratios, 1 - 0.5 * topology.spectral_gap, atol=2e-6)
    assert found.slowest == pytest.approx(topology.spectral_gap)
    assert found.slowest == pytest.approx(1 - slowest_mode(topology)[0])


def test_too_large_a_gamma_is_reported_as_diverged() -> None:
    layout = Layout.of_sizes([32])
    start, topology = starting(8, 32), make_topology("ring", 8)
    course = gossip(
        Consensus(ParallelChoco, topology, EveryFourth(), layout, start, gamma=1.0), 2000
    )
    assert course.diverged
    assert len(course.rounds) == len(course.errors) < 2001
    assert course.decay() is None
    assert not gossip(
        Consensus(ParallelChoco, topology, EveryFourth(), layout, start, gamma=0.05), 2000
    ).diverged


def test_infinity_is_reported_as_diverged() -> None:
    start = starting(4)
    start[2, 3] = torch.inf
    consensus = Consensus(
        ParallelChoco, make_topology("ring", 4), make_compressor("none"), LAYOUT, start, gamma=1
    )
    assert gossip(consensus, 10).diverged


def test_courses_are_read_right() -> None:
    rounds = tuple(range(0, 1010, 10))
    course = Course(rounds, tuple(0.98**at + 1e-7 for at in rounds), diverged=False)
    assert course.decay() == pytest.approx(0.02, rel=0.01)
    assert course.rounds_to(0.5) == 40
    assert course.rounds_to(1e-8) is None


def test_a_start_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 22\), got \(5, 22\)"):
        Consensus(
            ParallelChoco,
            make_topology("ring", 4),
            make_compressor("none"),
            LAYOUT,
            starting(5),
            gamma=1,
        )


def test_the_own_message_may_be_added_before_the_others_are() -> None:
    topology, layout = make_topology("ring", 4), Layout.of_sizes([3] * 4)
    rounds = StackedGossip(NoCommunicator(0, 4), topology, make_compressor("none"), layout, seed=1)
    x = torch.arange(12, dtype=torch.float64)
    own, mean = torch.zeros(2, 12, dtype=torch.float64)
    rounds.send(x, None, 0)
    rounds.add_own(own)
    rounds.receive([(mean, rounds.mean, 1.0)])
    np.testing.assert_array_equal(own, x)
    np.testing.assert_allclose(mean.view(4, 3), topology.matrix @ x.view(4, 3).numpy())
