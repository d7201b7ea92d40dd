"""What a data set is: samples that are dealt to nodes, and batches made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pcode.utils.seeding import derive_seed, torch_generator


@dataclass(frozen=True)
class LocalRank:
    """A process of a node; each takes a contiguous slice of every batch, as equal as can be."""

    rank: int = 0
    size: int = 1

    def slice_of(self, batch: torch.Tensor, dim: int = 0) -> torch.Tensor:
        """Return its slice of a batch whose samples lie along `dim`, a view."""
        return torch.tensor_split(batch, self.size, dim)[self.rank]

    def share_of(self, num_samples: int) -> float:
        """Return how large its slice of a batch of so many is, as a share of the batch."""
        size = num_samples // self.size + (self.rank < num_samples % self.size)
        return size / num_samples

    @property
    def numbers(self) -> tuple[int, ...]:
        """What its draws are derived from besides; those of rank 0 are a whole node's."""
        return (self.rank,) if self.rank else ()


WHOLE = LocalRank()


@dataclass(frozen=True)
class Order:
    """What decides on the batches of a node in an epoch, or on a process' slices of them."""

    seed: int
    rank: int
    epoch: int
    local_rank: LocalRank = WHOLE


def batches_per_epoch(num_samples: int, num_nodes: int, batch_size: int) -> int:
    """Return how many batches an epoch has on every node; num_samples are all nodes' together."""
    return max(1, num_samples // (num_nodes * batch_size))


def share_batches(
    num_samples: int, part: int, num_shares: int, batch_size: int
) -> Sequence[torch.Tensor]:
    """Return the positions in each batch of one of num_shares shares of a test set."""
    positions = torch.arange(num_samples)[part::num_shares]
    return positions.split(batch_size) if len(positions) else ()


def epoch_batches(
    indices: torch.Tensor, num_batches: int, batch_size: int, order: Order
) -> list[torch.Tensor]:
    """Return a node's batches of an epoch, or a process' slices, each the indices of its samples.

    The node's samples are shuffled and the first num_batches * batch_size are taken; those that
    remain are others in every epoch. A share with fewer is gone through again, in another order,
    until there are enough, and batches are no larger than the share. Nodes that all hold the whole
    training set (`--partition_data none`) thus shuffle all of it, each in its own order, and take
    one n-th of its batches each. `indices` are the node's samples, positions in the training set,
    int64, one at least.
    """
    generator = torch_generator(order.seed, "order", order.rank, order.epoch)
    batch_size = min(batch_size, len(indices))
    num_passes = -(-num_batches * batch_size // len(indices))
    passes = [torch.randperm(len(indices), generator=generator) for _ in range(num_passes)]
    shuffled = indices[torch.cat(passes)]
    batches = shuffled[: num_batches * batch_size].split(batch_size)
    return [order.local_rank.slice_of(batch) for batch in batches]


# Inputs, as the model takes them, and targets (int64).
Batch = tuple[torch.Tensor, torch.Tensor]
# Closed by whoever does not read them to the end.
Batches = Generator[Batch, None, None]

TEST_BATCH_SIZE = 512


class Split(NamedTuple):
    """Samples for training or for testing, N x ..., and their targets, int64, N."""

    inputs: torch.Tensor
    targets: torch.Tensor


class Dataset(ABC):
    """A data set for one run: what a loader of DATASETS returns.

    Attributes:
        task: "classification" (targets: a class for each sample) or "language" (targets: the next
            word at each place).
        input_shape: of one sample: (channels, height, width), (features,), or () for words.
        num_classes: classes, or words of the vocabulary.
        train_targets: int64, one label for each training sample: what a partition deals.
        labelled: whether train_targets distinguish samples; words have none.
        num_test: what a test metric is a mean over: samples, or words.
        notices: what the user should know of the files, a line each.
    """

    task: str = "classification"
    labelled: bool = True
    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    train_targets: torch.Tensor
    num_test: int
    notices: tuple[str, ...] = ()

    def on(self, device: torch.device) -> Dataset:
        """Return the same for a model on that device: what can be stored or made there is.

        Batches may still come from host memory: who trains moves them (`to_device`).
        """
        return self

    def batches_per_epoch(self, num_nodes: int, batch_size: int) -> int:
        """Return the number of steps of an epoch, the same on every node."""
        return batches_per_epoch(len(self.train_targets), num_nodes, batch_size)

    def train_batches(
        self, share: torch.Tensor, num_batches: int, batch_size: int, order: Order, first: int = 0
    ) -> Batches:
        """Read a node's batches of an epoch, num_batches of them, from number `first` on.

        The arguments are those of `epoch_batches`; what augmentation is drawn from is, too.
        """
        batches = epoch_batches(share, num_batches, batch_size, order)
        numbers = order.local_rank.numbers
        seeds = [
            derive_seed(order.seed, "augment", order.rank, order.epoch, index, *numbers)
            for index in range(len(batches))
        ]
        return self.read(batches[first:], seeds[first:])

    @abstractmethod
    def read(self, batches: Sequence[torch.Tensor], seeds: Sequence[int]) -> Batches:
        """Read the training batches of these samples, positions in train_targets, int64, in order.

        The augmentation of each is drawn from its seed.
        """

    @abstractmethod
    def test_batches(self, part: int = 0, num_shares: int = 1) -> Batches:
        """Read the test set, without augmentation, or one of num_shares disjoint shares of it.

        The shares differ in size by as little as possible; one may be empty.
        """


# Loads a data set from the flags that it takes, by their names, and, if it takes `parameters`, from
# what follows the data set's name: "A:B" in "NAME:A:B". It raises a UserError where one of these or
# a file is not what it should be.
Loader = Callable[..., Dataset]
