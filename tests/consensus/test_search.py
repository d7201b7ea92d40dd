"""The search for a consensus step size."""

from __future__ import annotations

import math

import pytest
import torch

from pcode.compression import Compressor, Message, make_compressor
from pcode.consensus import search_gamma
from pcode.errors import UserError
from pcode.layout import Layout
from pcode.topology import make_topology
from tests.consensus.every_fourth import EveryFourth

LAYOUT = Layout.of_sizes([300_000, 5_000, 100])


class Longer(EveryFourth):
    """Harder the larger the tensor: delta as of qsgd."""

    def contraction(self, layout: Layout) -> float:
        return 1 / math.sqrt(math.sqrt(max(layout.sizes)))


class Wrong(EveryFourth):
    """No contraction: what is sent points away."""

    def encode(
        self, layout: Layout, value: torch.Tensor, reference: torch.Tensor | None, message: Message
    ) -> None:
        super().encode(layout, value, reference, message)
        message.payload.view(torch.float32).mul_(-1000)


@pytest.mark.parametrize("num_nodes", [2, 4])
def test_without_compression_on_the_complete_graph_it_is_one(num_nodes: int) -> None:
    topology = make_topology("complete", num_nodes)
    search = search_gamma(topology, make_compressor("none"), LAYOUT, seed=6)
    assert search.best == 1


def test_one_node_needs_no_search() -> None:
    search = search_gamma(make_topology("complete", 1), make_compressor("sign"), LAYOUT, seed=6)
    assert search.best == 1
    assert search.trials == ()
    assert len(search.lines()) == 1


@pytest.mark.parametrize("compressor", [make_compressor("sign"), EveryFourth()])
def test_the_same_on_every_rank_and_better_than_its_neighbours(compressor: Compressor) -> None:
    topology = make_topology("ring", 8)
    search = search_gamma(topology, compressor, LAYOUT, seed=6)
    assert search == search_gamma(topology, compressor, LAYOUT, seed=6)
    costs = {trial.gamma: trial.cost for trial in search.trials}
    assert costs[search.best] <= 1.01 * min(costs.values())
    assert min(costs) < search.best / 2
    assert search.num_entries == 4096
    assert search.share == pytest.approx(4096 / LAYOUT.num_entries)


def test_near_the_tuned_value_for_sign_on_a_ring_of_8() -> None:
    search = search_gamma(make_topology("ring", 8), make_compressor("sign"), LAYOUT, seed=6)
    assert 0.45 / 1.6 < search.best < 0.45 * 1.6


def test_gammas_that_diverge_are_shown() -> None:
    search = search_gamma(make_topology("complete", 8), EveryFourth(), LAYOUT, seed=6)
    assert math.isinf(search.trials[0].cost)
    lines = search.lines()
    assert len(lines) <= 15
    assert "diverges" in lines[2]
    assert sum(line.startswith("*") for line in lines) == 1


def test_what_is_cut_off_makes_gamma_smaller() -> None:
    topology = make_topology("ring", 16)
    search = search_gamma(topology, Longer(), LAYOUT, seed=6)
    assert search.num_entries == 8192
    assert search.scale == pytest.approx((8192 / 300_000) ** 0.25)
    chosen = [trial.gamma * search.scale for trial in search.trials]
    assert search.best in chosen
    assert "harder" in search.lines()[0]


def test_no_gamma_will_do() -> None:
    with pytest.raises(UserError, match="graph 'ring' drift apart"):
        search_gamma(make_topology("ring", 4), Wrong(), LAYOUT, seed=6)
