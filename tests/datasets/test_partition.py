"""Who holds which samples."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pcode.datasets import partition_indices
from pcode.datasets.partition import smallest_share
from pcode.utils.errors import UserError

TARGETS = torch.arange(101) * 7 % 10


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@given(
    labels=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    num_nodes=st.integers(1, 12),
    scheme=st.sampled_from(["random", "sorted"]),
)
def test_every_sample_goes_to_exactly_one_node(
    labels: list[int], num_nodes: int, scheme: str
) -> None:
    targets = torch.tensor(labels)
    if num_nodes > len(labels):
        with pytest.raises(UserError, match=f"--n_mpi_process {num_nodes}: .*{len(labels)} nodes"):
            partition_indices(targets, num_nodes, scheme, 6, 0)
        return
    shares = partition_indices(targets, num_nodes, scheme, 6, 0)
    assert len(shares) == num_nodes
    assert {share.dtype for share in shares} == {torch.int64}
    assert sorted(torch.cat(shares).tolist()) == list(range(len(labels)))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_random_depends_on_seed_and_epoch_alone() -> None:
    first = partition_indices(TARGETS, 4, "random", 6, 0)
    torch.rand(3)
    assert same(first, partition_indices(TARGETS, 4, "random", 6, 0))
    assert not same(first, partition_indices(TARGETS, 4, "random", 7, 0))
    assert not same(first, partition_indices(TARGETS, 4, "random", 6, 1))


def test_sorted_is_by_label_and_stable() -> None:
    order = torch.cat(partition_indices(TARGETS, 4, "sorted", 6, 0)).tolist()
    assert order == sorted(range(101), key=lambda index: (int(TARGETS[index]), index))
    few_classes = partition_indices(TARGETS, 10, "sorted", 6, 0)
    assert all(len(set(TARGETS[share].tolist())) <= 2 for share in few_classes)


def test_none_gives_everything_to_everyone() -> None:
    for share in partition_indices(TARGETS, 200, "none", 6, 0):
        assert share.tolist() == list(range(101))


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="'iid' is not known; built: random, sorted, dirichlet"):
        partition_indices(TARGETS, 4, "iid", 6, 0)


@given(
    labels=st.lists(st.integers(0, 9), min_size=1, max_size=120),
    num_nodes=st.integers(1, 12),
    alpha=st.sampled_from(["0.001", ".1", "1", "1000"]),
    minimum=st.integers(1, 10),
)
def test_dirichlet_gives_every_sample_to_one_node_and_each_its_minimum(
    labels: list[int], num_nodes: int, alpha: str, minimum: int
) -> None:
    targets = torch.tensor(labels)
    name = f"dirichlet:{alpha}:{minimum}"
    if minimum > len(labels) // num_nodes:
        with pytest.raises(UserError, match=r"n_mpi_process|minimum must be"):
            partition_indices(targets, num_nodes, name, 6, 0)
        return
    shares = partition_indices(targets, num_nodes, name, 6, 0)
    assert sorted(torch.cat(shares).tolist()) == list(range(len(labels)))
    assert min(len(share) for share in shares) >= minimum
    assert {share.dtype for share in shares} == {torch.int64}


def shares_of_classes(alpha: str) -> torch.Tensor:
    """Nodes x classes: which part of a class each node holds, over many draws."""
    targets = torch.arange(20_000) % 10
    rows = []
    for seed in range(30):
        for share in partition_indices(targets, 8, f"dirichlet:{alpha}:1", seed, 0):
            rows.append(torch.bincount(targets[share], minlength=10) / 2000)
    return torch.stack(rows)


@pytest.mark.parametrize("alpha", ["0.1", "1", "10"])
def test_dirichlet_deals_as_its_concentration_says(alpha: str) -> None:
    # Of Dir(alpha, ..., alpha) over 8 nodes each proportion has mean 1/8 and variance
    # 7/64 / (8 alpha + 1); 2,400 proportions are seen, 7 of 8 independent.
    proportions = shares_of_classes(alpha)
    variance = 7 / 64 / (8 * float(alpha) + 1)
    assert proportions.mean().item() == pytest.approx(1 / 8, abs=1e-6)
    assert proportions.var().item() == pytest.approx(variance, rel=0.25)


def test_dirichlet_depends_on_seed_and_epoch_alone() -> None:
    first = partition_indices(TARGETS, 4, "dirichlet", 6, 0)
    torch.rand(3)
    assert same(first, partition_indices(TARGETS, 4, "dirichlet", 6, 0))
    assert same(first, partition_indices(TARGETS, 4, "dirichlet:.5:10", 6, 0))
    assert [s.tolist() for s in first] != [
        s.tolist() for s in partition_indices(TARGETS, 4, "dirichlet", 7, 0)
    ]
    assert [s.tolist() for s in first] != [
        s.tolist() for s in partition_indices(TARGETS, 4, "dirichlet", 6, 1)
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dirichlet:0", "alpha must be above 0"),
        ("dirichlet:inf", "alpha must be above 0 and at most 1e.06"),
        ("dirichlet:1e308", "alpha must be above 0"),
        ("dirichlet:x", "expected dirichlet:ALPHA:MINIMUM"),
        ("dirichlet:1:2:3", "expected dirichlet:ALPHA:MINIMUM"),
        ("dirichlet:1:0", "minimum must be from 1 to 25"),
        ("dirichlet:1:26", "minimum must be from 1 to 25"),
        ("non_iid_dirichlet", "expected non_iid_dirichlet:ALPHA"),
        ("non_iid_dirichlet:0", "alpha must be above 0"),
        ("classes", "expected classes:K"),
        ("classes:26", "K must be from 1 to 25"),
        ("random:2", "random takes no parameters"),
    ],
)
def test_bad_parameters_are_refused(name: str, words: str) -> None:
    with pytest.raises(UserError, match=f"--partition_data {name}.*{words}"):
        partition_indices(TARGETS, 4, name, 6, 0)


@given(
    num_samples=st.integers(500, 600),  # enough for rounding not to leave a node without
    num_classes=st.integers(5, 10),
    num_nodes=st.integers(1, 25),
    alpha=st.sampled_from([".5", "1", "1000"]),
)
def test_non_iid_dirichlet_gives_every_sample_to_one_node(
    num_samples: int, num_classes: int, num_nodes: int, alpha: str
) -> None:
    targets, name = torch.arange(num_samples) % num_classes, f"non_iid_dirichlet:{alpha}"
    shares = partition_indices(targets, num_nodes, name, 6, 0)
    assert len(shares) == num_nodes
    assert sorted(torch.cat(shares).tolist()) == list(range(num_samples))
    assert {share.dtype for share in shares} == {torch.int64}
    smallest = min(len(share) for share in shares)
    assert smallest >= smallest_share(name, num_samples, num_nodes)


def published(
    classes: list[int], num_nodes: int, alpha: float, draw: random.Random
) -> list[list[int]]:
    """Nodes x classes of these sizes by the rule in words, by Gamma variables."""
    mean = sum(classes) / num_nodes
    while True:
        held = [[0] * len(classes) for _ in range(num_nodes)]
        for k, number in enumerate(classes):
            gammas = [draw.gammavariate(alpha, 1) for _ in range(num_nodes)]
            open_ = [g if sum(row) < mean else 0.0 for g, row in zip(gammas, held, strict=True)]
            if sum(open_) == 0:
                break
            given_, dealt = 0.0, 0
            for node, each in enumerate(open_):
                given_ += each / sum(open_)
                upto = int(given_ * number) if node < num_nodes - 1 else number
                held[node][k] = upto - dealt
                dealt = upto
        sizes = [sum(row) for row in held]
        if sum(sizes) == sum(classes) and min(sizes) >= int(mean / 2):
            return held


def statistics_of(held: torch.Tensor) -> dict[str, float]:
    """Of draws x nodes x classes: means over draws, and over nodes."""
    sizes = held.sum(dim=2)
    found = {
        "smallest share": sizes.amin(dim=1),
        "largest share": sizes.amax(dim=1),
        "deviation of shares": sizes.std(dim=1),
        # Not those of which rounding leaves a node a sample.
        "classes of a node": (held >= 0.01 * sizes.unsqueeze(2)).sum(dim=2).double(),
        "share of the largest class": held.amax(dim=2) / sizes,
    }
    return {name: values.mean().item() for name, values in found.items()}


@pytest.mark.parametrize(
    ("num_draws", "within"), [(80, 0.15), pytest.param(1000, 0.03, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("alpha", ["10", "1", "0.1", "0.01"])
def test_shares_are_as_the_published_rule_deals_them(
    alpha: str, num_draws: int, within: float
) -> None:
    """Sizes and classes of 16 nodes' shares: groups of ten and of six."""
    targets = torch.arange(1600) % 10
    draw, name = random.Random(3), f"non_iid_dirichlet:{alpha}"
    shares = [partition_indices(targets, 16, name, seed, 0) for seed in range(num_draws)]
    for first, last in ((0, 10), (10, 16)):
        held = [
            [torch.bincount(targets[share], minlength=10).tolist() for share in row[first:last]]
            for row in shares
        ]
        got = torch.tensor(held).double()
        # What a group has of each class is drawn as well: the rule deals the same.
        classes = [[int(number) for number in row] for row in got.sum(dim=1)]
        assert {sum(row) for row in classes} == {100 * (last - first)}
        wanted = [published(row, last - first, float(alpha), draw) for row in classes]
        want = torch.tensor(wanted).double()
        assert got.sum(dim=2).min() >= 50
        assert statistics_of(got) == pytest.approx(statistics_of(want), rel=within)


def test_shares_that_cannot_be_drawn_are_refused() -> None:
    """Every class goes to one node, and there are fewer than nodes."""
    with pytest.raises(UserError, match="10,000 draws left a node less than half of the mean"):
        partition_indices(torch.arange(100) % 5, 10, "non_iid_dirichlet:1e-9", 6, 0)


def test_the_smaller_alpha_the_fewer_classes_has_a_node() -> None:
    targets = torch.arange(2000) % 10

    def classes_of_a_node(alpha: str) -> float:
        shares = [
            share
            for seed in range(20)
            for share in partition_indices(targets, 10, f"non_iid_dirichlet:{alpha}", seed, 0)
        ]
        held = [torch.bincount(targets[share], minlength=10) for share in shares]
        return float(np.mean([(each >= 0.01 * each.sum()).sum().item() for each in held]))

    found = [classes_of_a_node(alpha) for alpha in ("10", "1", "0.1", "0.01")]
    assert found == sorted(found, reverse=True)
    assert found[0] > 9
    assert found[-1] < 2.5


@pytest.mark.parametrize("number", [1, 2, 5])
def test_nodes_have_as_many_classes_as_asked_for(number: int) -> None:
    targets = torch.arange(1000) * 7 % 10
    shares = partition_indices(targets, 10, f"classes:{number}", 6, 0)
    assert sorted(torch.cat(shares).tolist()) == list(range(1000))
    assert {len(share) for share in shares} == {100}
    assert all(len(set(targets[share].tolist())) <= number for share in shares)
    assert not same(shares, partition_indices(targets, 10, f"classes:{number}", 7, 0))
    few = partition_indices(targets[:140], 10, "classes:10", 6, 0)
    assert min(map(len, few)) >= smallest_share("classes:10", 140, 10) == 10
