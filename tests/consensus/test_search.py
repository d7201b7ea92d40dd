"""The search for a consensus step size."""

from __future__ import annotations

import math
import statistics
from functools import cache

import pytest
import torch

from pcode.compression import Compressor, make_compressor
from pcode.consensus import Consensus, GammaSearch, gossip, search_gamma
from pcode.optim import DeepSqueeze, ParallelChoco
from pcode.topology import make_topology
from pcode.utils.errors import UserError
from pcode.utils.layout import Layout
from tests.consensus.every_fourth import EveryFourth
from tests.consensus.wrong import Wrong

LAYOUT = Layout.of_sizes([300_000, 5_000, 100])


class Longer(EveryFourth):
    """Harder the larger the tensor: delta as of qsgd."""

    def contraction(self, layout: Layout) -> float:
        return 1 / math.sqrt(math.sqrt(max(layout.sizes)))


@pytest.mark.parametrize("num_nodes", [2, 4])
def test_without_compression_on_the_complete_graph_it_is_one(num_nodes: int) -> None:
    topology = make_topology("complete", num_nodes)
    search = search_gamma(topology, make_compressor("none"), LAYOUT, seed=6)
    assert search.best == 1


def test_one_node_needs_no_search() -> None:
    search = search_gamma(make_topology("complete", 1), make_compressor("sign"), LAYOUT, seed=6)
    assert search.best == 1
    assert search.trials == {}
    assert search.lines() == ["gamma 1: not searched, as there is nothing to agree on"]


@pytest.mark.parametrize("compressor", [make_compressor("sign"), EveryFourth()])
def test_the_same_on_every_rank_and_better_than_its_neighbours(compressor: Compressor) -> None:
    topology = make_topology("ring", 8)
    search = search_gamma(topology, compressor, LAYOUT, seed=6)
    assert search == search_gamma(topology, compressor, LAYOUT, seed=6)
    costs = {gamma: c for gamma, c in search.trials.items() if gamma not in search.grown}
    assert costs[search.best] <= 1.01 * min(costs.values())
    assert min(costs) < search.best / 2
    assert search.num_entries == 4096
    assert search.share == pytest.approx(4096 / LAYOUT.num_entries)


def test_near_the_tuned_value_for_sign_on_a_ring_of_8() -> None:
    search = search_gamma(make_topology("ring", 8), make_compressor("sign"), LAYOUT, seed=6)
    assert 0.45 / 1.6 < search.best < 0.45 * 1.6


def test_gammas_that_diverge_are_shown() -> None:
    search = search_gamma(make_topology("complete", 8), EveryFourth(), LAYOUT, seed=6)
    assert math.isinf(search.trials[max(search.trials)])
    lines = search.lines()
    assert len(lines) <= 15
    assert "diverges" in lines[2]
    assert sum(line.startswith("*") for line in lines) == 1


def test_what_is_cut_off_makes_gamma_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcode.consensus.search.MOST_WORK", 1 << 23)  # which takes seconds as it is
    search = search_gamma(make_topology("ring", 16), Longer(), LAYOUT, seed=6)
    assert search.num_entries == 4096
    assert search.scale == pytest.approx((4096 / 300_000) ** 0.25)
    chosen = [gamma * search.scale for gamma in search.trials]
    assert search.best in chosen
    assert "harder" in search.lines()[0]


def test_no_gamma_will_do() -> None:
    with pytest.raises(UserError, match="graph 'ring' drift apart"):
        search_gamma(make_topology("ring", 4), Wrong(), LAYOUT, seed=6)


@cache
def searched(graph: str) -> GammaSearch:
    """For sign on 16 nodes."""
    return search_gamma(
        make_topology(graph, 16), make_compressor("sign"), Layout.of_sizes([1000]), seed=6
    )


@pytest.mark.parametrize("graph", ["ring", pytest.param("torus", marks=pytest.mark.slow)])
def test_no_slow_growth(graph: str) -> None:
    topology, sign = make_topology(graph, 16), make_compressor("sign")
    layout, search = Layout.of_sizes([1000]), searched(graph)
    start = torch.randn(16, 1000, generator=torch.Generator().manual_seed(1))
    consensus = Consensus(ParallelChoco, topology, sign, layout, start, gamma=search.best)
    errors = gossip(consensus, 10_000, every=100).errors
    assert statistics.median(errors[81:]) < statistics.median(errors[21:41])
    assert max(errors[81:]) < 0.005


def test_a_step_down_is_reported() -> None:
    search = searched("ring")
    assert search.best < min(search.grown)
    assert f"from {search.grown[0]:.4g}, with which errors grow" in search.lines()[0]
    assert sum("errors grow later" in line for line in search.lines()) == len(search.grown)


def disturbed(gamma: float) -> float:
    """The disagreement of DeepSqueeze's nodes whose models differ by a little more each round."""
    topology, draw = make_topology("ring", 8), torch.Generator().manual_seed(5)
    start, layout = torch.randn(2000, generator=draw).repeat(8, 1), Layout.of_sizes([2000])
    consensus = Consensus(
        DeepSqueeze, topology, make_compressor("sign"), layout, start, gamma=gamma
    )
    for _ in range(500):
        consensus.x += 0.002 * torch.randn(8, 2000, generator=draw)
        consensus.round()
    return float((consensus.x - consensus.x.mean(dim=0)).norm())


def test_deep_squeeze_gets_a_gamma_of_its_own() -> None:
    ring, sign = make_topology("ring", 8), make_compressor("sign")
    search = search_gamma(ring, sign, LAYOUT, 6, DeepSqueeze)
    assert 0.01 / 1.6 < search.best < 0.01 * 1.6
    found = disturbed(search.best)
    assert found < 1.05 * disturbed(0.01)
    assert found < 0.2 * disturbed(0.45)


@pytest.mark.parametrize(("name", "expected"), [("sign", 0.01), ("none", 1.0)])
def test_the_default_of_deep_squeeze(name: str, expected: float) -> None:
    compressor = make_compressor(name)
    assert DeepSqueeze.default_consensus_stepsize(compressor) == pytest.approx(expected)
    choco = ParallelChoco.default_consensus_stepsize(compressor)
    assert choco == compressor.default_consensus_stepsize
