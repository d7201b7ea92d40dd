"""Who holds which samples."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pcode.datasets import partition_indices
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
        ("random:2", "random takes no parameters"),
    ],
)
def test_bad_parameters_are_refused(name: str, words: str) -> None:
    with pytest.raises(UserError, match=f"--partition_data {name}.*{words}"):
        partition_indices(TARGETS, 4, name, 6, 0)
