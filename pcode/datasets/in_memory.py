"""Data sets that lie in memory as tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch

from pcode.datasets.base import TEST_BATCH_SIZE, Batches, Dataset
from pcode.utils.transfer import memory_bytes, moved_together, to_device

# Of a device's memory, up to which all samples lie on it, for each process.
LARGEST_SHARE = 1 / 8

# Stored samples -> the model's inputs; the generator is that of the augmentation, None in tests.
Prepare = Callable[[torch.Tensor, torch.Generator | None], torch.Tensor]


def as_they_are(stored: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Samples that are stored as a model takes them."""
    return stored


class InMemory(Dataset):
    """Samples as tensors, prepared a batch at a time on the device where the model is.

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
        self._device = torch.device("cpu")
        self._targets = train_targets

    def on(self, device: torch.device) -> InMemory:
        """All samples go there, where they take little enough of its memory, else each batch."""
        moved = copy.copy(self)
        moved._device = device
        moved._targets = to_device(self.train_targets, device)
        moved.test_targets = to_device(self.test_targets, device)
        num_bytes = self.train_inputs.nbytes + self.test_inputs.nbytes
        if num_bytes <= LARGEST_SHARE * memory_bytes(device):
            # Once: page-locked memory for all of it would stay.
            moved.train_inputs = self.train_inputs.to(device)
            moved.test_inputs = self.test_inputs.to(device)
        return moved

    def read(self, batches: Sequence[torch.Tensor], seeds: Sequence[int]) -> Batches:
        where = self.train_inputs.device
        for batch, there, seed in zip(
            batches, moved_together(batches, self._device), seeds, strict=True
        ):
            stored = self.train_inputs.index_select(0, batch if where.type == "cpu" else there)
            inputs = self.prepare(
                to_device(stored, self._device), torch.Generator().manual_seed(seed)
            )
            yield inputs, self._targets.index_select(0, there)

    def test_batches(self, part: int = 0, num_parts: int = 1) -> Batches:
        mine = slice(part, None, num_parts)
        inputs, targets = self.test_inputs[mine], self.test_targets[mine]
        for stored, labels in zip(
            inputs.split(TEST_BATCH_SIZE), targets.split(TEST_BATCH_SIZE), strict=True
        ):
            if len(labels):  # an empty tensor splits into one empty piece
                yield self.prepare(to_device(stored, self._device), None), labels
