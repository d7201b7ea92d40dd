"""Batches of an epoch."""

from __future__ import annotations

from itertools import chain

import torch
from hypothesis import given
from hypothesis import strategies as st

from pcode.datasets import partition_indices
from pcode.datasets.base import LocalRank, Order, batches_per_epoch, epoch_batches


def batches_of(
    indices: torch.Tensor, num_batches: int, batch_size: int, rank: int = 0, epoch: int = 0
) -> list[list[int]]:
    batches = epoch_batches(indices, num_batches, batch_size, Order(6, rank, epoch))
    return [batch.tolist() for batch in batches]


@given(
    num_samples=st.integers(1, 300),
    num_nodes=st.integers(1, 12),
    batch_size=st.integers(1, 40),
    scheme=st.sampled_from(["random", "sorted", "none"]),
)
def test_every_node_has_the_same_number_of_full_batches(
    num_samples: int, num_nodes: int, batch_size: int, scheme: str
) -> None:
    num_nodes = min(num_nodes, num_samples)
    shares = partition_indices(torch.zeros(num_samples), num_nodes, scheme, 6, 0)
    num_batches = batches_per_epoch(num_samples, num_nodes, batch_size)
    for rank, share in enumerate(shares):
        batches = batches_of(share, num_batches, batch_size, rank)
        assert len(batches) == num_batches
        assert all(len(batch) == min(batch_size, len(share)) for batch in batches)
        drawn = list(chain.from_iterable(batches))
        assert len(set(drawn)) == len(drawn)
        assert set(drawn) <= set(share.tolist())


def test_the_digits_on_two_nodes() -> None:
    assert batches_per_epoch(1437, 2, 32) == 22


def test_a_small_share_is_one_batch() -> None:
    (batch,) = batches_of(torch.tensor([4, 8, 15]), batches_per_epoch(6, 2, 32), 32)
    assert sorted(batch) == [4, 8, 15]


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 12))
def test_a_share_with_too_few_samples_is_gone_through_again(
    num_samples: int, num_batches: int, batch_size: int
) -> None:
    batches = batches_of(torch.arange(num_samples) + 5, num_batches, batch_size)
    assert [len(batch) for batch in batches] == [min(batch_size, num_samples)] * num_batches
    times = torch.bincount(torch.tensor(list(chain.from_iterable(batches))) - 5)
    times = torch.nn.functional.pad(times, (0, num_samples - len(times)))
    assert times.max() - times.min() <= 1


def test_the_order_depends_on_seed_rank_and_epoch_alone() -> None:
    indices = torch.arange(100)
    first = batches_of(indices, 6, 16)
    torch.rand(3)
    assert batches_of(indices, 6, 16) == first
    assert batches_of(indices, 6, 16, rank=1) != first
    assert batches_of(indices, 6, 16, epoch=1) != first
    other_seed = epoch_batches(indices, 6, 16, Order(7, 0, 0))
    assert [batch.tolist() for batch in other_seed] != first


def test_what_an_epoch_leaves_out_another_brings() -> None:
    indices = torch.arange(10)
    drawn = [
        set(chain.from_iterable(batches_of(indices, 2, 4, epoch=epoch))) for epoch in range(20)
    ]
    assert all(len(epoch) == 8 for epoch in drawn)
    assert set.union(*drawn) == set(range(10))


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 8))
def test_parts_of_batches_are_the_batches(
    num_samples: int, batch_size: int, num_parts: int
) -> None:
    whole = batches_of(torch.arange(num_samples), 4, batch_size)
    parts = [LocalRank(number, num_parts) for number in range(num_parts)]
    split = [
        epoch_batches(torch.arange(num_samples), 4, batch_size, Order(6, 0, 0, part))
        for part in parts
    ]
    for batch, slices in zip(whole, zip(*split, strict=True), strict=True):
        assert torch.cat(slices).tolist() == batch
        sizes = [len(one) for one in slices]
        assert max(sizes) - min(sizes) <= 1
        shares = [part.share_of(len(batch)) for part in parts]
        assert shares == [size / len(batch) for size in sizes]
