"""What every data set's batches are made from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch

from pcode.datasets import Batches, Dataset
from pcode.datasets.base import WHOLE, LocalRank, Order


class Recording(Dataset):
    """Keeps the seeds that its batches are to be augmented from, and makes none."""

    def __init__(self) -> None:
        self.train_targets = torch.zeros(40, dtype=torch.int64)
        self.seeds: list[int] = []

    def read(self, batches: Sequence[torch.Tensor], seeds: Sequence[int]) -> Batches:
        assert len(batches) == len(seeds)
        self.seeds.extend(seeds)
        yield from ()

    def test_batches(self, part: int = 0, num_parts: int = 1) -> Batches:
        yield from ()


def seeds(seed: int, rank: int, epoch: int, part: LocalRank = WHOLE) -> list[int]:
    """Of five batches of an epoch."""
    dataset = Recording()
    share = torch.arange(40)
    list(dataset.train_batches(share, 5, 8, Order(seed, rank, epoch, part)))
    return dataset.seeds


def test_each_batch_is_augmented_from_a_seed_of_its_own() -> None:
    everyones = [seeds(*place) for place in product((6, 7), range(3), range(4))]
    flat = [seed for someones in everyones for seed in someones]
    assert len(flat) == 2 * 3 * 4 * 5
    assert len(set(flat)) == len(flat)


def test_the_seeds_depend_on_nothing_else() -> None:
    first = seeds(6, 1, 2)
    torch.rand(3)
    assert seeds(6, 1, 2) == first


def test_processes_of_a_node_draw_their_own_and_the_first_a_whole_node_s() -> None:
    parts = [seeds(6, 1, 2, LocalRank(number, 3)) for number in range(3)]
    assert parts[0] == seeds(6, 1, 2)
    assert len({seed for part in parts for seed in part}) == 3 * 5
