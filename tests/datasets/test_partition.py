"""Who holds which samples."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pcode.datasets import partition_indices
from pcode.errors import UserError

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
    with pytest.raises(UserError, match="--partition_data 'dirichlet' is not built yet"):
        partition_indices(TARGETS, 4, "dirichlet", 6, 0)
    with pytest.raises(UserError, match="'iid' is not known; built: random, sorted, none"):
        partition_indices(TARGETS, 4, "iid", 6, 0)
