"""Data sets that lie in memory as tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from pcode.datasets.base import TEST_BATCH_SIZE, Batches, Dataset

# Stored samples -> the model's inputs; the generator is that of the augmentation, None in tests.
Prepare = Callable[[torch.Tensor, torch.Generator | None], torch.Tensor]


def as_they_are(stored: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Samples that are stored as a model takes them."""
    return stored


class InMemory(Dataset):
    """Samples as tensors, prepared a batch at a time on the device on which they lie.

    Args:
        name, num_classes: see Dataset.
        train_inputs, test_inputs: N x ..., of any dtype.
        train_targets, test_targets: int64, N, from 0 to num_classes - 1.
        prepare: makes a batch of stored samples a float32 batch of the same shape.
    """

    def __init__(
        self,
        name: str,
        *,
        train_inputs: torch.Tensor,
        train_targets: torch.Tensor,
        test_inputs: torch.Tensor,
        test_targets: torch.Tensor,
        num_classes: int,
        prepare: Prepare = as_they_are,
    ) -> None:
        self.name, self.num_classes = name, num_classes
        self.train_inputs, self.train_targets = train_inputs, train_targets
        self.test_inputs, self.test_targets = test_inputs, test_targets
        self.input_shape = tuple(train_inputs.shape[1:])
        self.num_test = len(test_targets)
        self.prepare = prepare

    def read(self, batches: Sequence[torch.Tensor], seeds: Sequence[int]) -> Batches:
        for batch, seed in zip(batches, seeds, strict=True):
            stored = self.train_inputs.index_select(0, batch)
            inputs = self.prepare(stored, torch.Generator().manual_seed(seed))
            yield inputs, self.train_targets.index_select(0, batch)

    def test_batches(self, part: int = 0, num_parts: int = 1) -> Batches:
        mine = slice(part, None, num_parts)
        inputs, targets = self.test_inputs[mine], self.test_targets[mine]
        for stored, labels in zip(
            inputs.split(TEST_BATCH_SIZE), targets.split(TEST_BATCH_SIZE), strict=True
        ):
            if len(labels):  # an empty tensor splits into one empty piece
                yield self.prepare(stored, None), labels
