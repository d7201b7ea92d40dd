"""What a data set is: samples that are dealt to nodes, and batches made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch

from pcode.datasets.batches import WHOLE, LocalRank, batches_per_epoch, epoch_batches
from pcode.utils.options import Option
from pcode.utils.seeding import derive_seed

# Inputs, as the model takes them, and targets (int64).
Batch = tuple[torch.Tensor, torch.Tensor]
# Closed by whoever does not read them to the end.
Batches = Generator[Batch, None, None]

TEST_BATCH_SIZE = 512


class Split(NamedTuple):
    """Samples for training or for testing, N x ..., and their targets, int64, N."""

    inputs: torch.Tensor
    targets: torch.Tensor


BpttLength = Annotated[
    int, Option("words through which a gradient goes back", minimum=1, default=35)
]


class Dataset(ABC):
    """A data set for one run: what a loader of DATASETS returns.

    Attributes:
        name: as `--data` names it.
        task: "classification" (targets: a class for each sample) or "language" (targets: the next
            word at each place).
        input_shape: of one sample: (channels, height, width), (features,), or () for words.
        num_classes: classes, or words of the vocabulary.
        train_targets: int64, one label for each training sample: what a partition deals.
        labelled: whether train_targets distinguish samples; words have none.
        num_test: what a test metric is a mean over: samples, or words.
    """

    task: str = "classification"
    labelled: bool = True
    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    train_targets: torch.Tensor
    num_test: int

    def on(self, device: torch.device) -> Dataset:
        """Return the same for a model on that device: what can be stored or made there is.

        Batches may still come from host memory: who trains moves them (`to_device`).
        """
        return self

    def batches_per_epoch(self, num_nodes: int, batch_size: int) -> int:
        """Return the number of steps of an epoch, the same on every node."""
        return batches_per_epoch(len(self.train_targets), num_nodes, batch_size)

    def train_batches(
        self,
        share: torch.Tensor,
        num_batches: int,
        batch_size: int,
        *,
        seed: int,
        rank: int,
        epoch: int,
        first: int = 0,
        local_rank: LocalRank = WHOLE,
    ) -> Batches:
        """Read a node's batches of an epoch, num_batches of them, from number `first` on.

        Args:
            share: the node's samples, positions in train_targets, int64.
            num_batches: from batches_per_epoch.
            seed, rank, epoch: what order and augmentation depend on, besides on local_rank alone.
            local_rank: the process, which takes its slice of each.
        """
        batches = epoch_batches(
            share, num_batches, batch_size, seed=seed, rank=rank, epoch=epoch, local_rank=local_rank
        )
        seeds = [
            derive_seed(seed, "augment", rank, epoch, index, *local_rank.numbers)
            for index in range(len(batches))
        ]
        return self.read(batches[first:], seeds[first:])

    @abstractmethod
    def read(self, batches: Sequence[torch.Tensor], seeds: Sequence[int]) -> Batches:
        """Read the training batches of these samples, in order.

        Args:
            batches: positions in train_targets, int64, a tensor for each batch.
            seeds: for each batch, what its augmentation is drawn from.
        """

    @abstractmethod
    def test_batches(self, part: int = 0, num_shares: int = 1) -> Batches:
        """Read the test set, without augmentation, or one of num_shares disjoint shares of it.

        The shares differ in size by as little as possible; one may be empty.
        """


@dataclass(frozen=True)
class Source:
    """How a data set is loaded.

    Attributes:
        load: called with the flags it takes, by their names (values as in the configuration); of a
            parametric source also with `parameters`, what follows its name: "A:B" in "NAME:A:B".
            It raises a UserError where a parameter or file is not what it should be.
        parametric: whether its name may be followed by parameters.
    """

    load: Callable[..., Dataset]
    parametric: bool = False
