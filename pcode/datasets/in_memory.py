"""Data sets that lie in memory as tensors."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence

import torch

from pcode.datasets.base import TEST_BATCH_SIZE, Batches, Dataset, Split
from pcode.utils.devices import memory_bytes, moved_together, to_device
from pcode.utils.errors import UserError

# Of a device's memory, up to which all samples lie on it, for each process.
LARGEST_SHARE = 1 / 8

# Stored samples -> the model's inputs; the generator is that of the augmentation, None in tests.
Prepare = Callable[[torch.Tensor, torch.Generator | None], torch.Tensor]


def as_stored(stored: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    return stored


class InMemory(Dataset):
    """Samples as tensors, prepared a batch at a time on the device where the model is.

    Targets are from 0 to num_classes - 1. `prepare` makes a batch of stored samples, of any dtype,
    a float32 batch of the same shape.
    """

    def __init__(
        self, name: str, train: Split, test: Split, num_classes: int, prepare: Prepare = as_stored
    ) -> None:
        self.name, self.num_classes = name, num_classes
        self.train_inputs, self.train_targets = train
        self.test_inputs, self.test_targets = test
        self.input_shape = tuple(self.train_inputs.shape[1:])
        self.num_test = len(self.test_targets)
        self.prepare = prepare
        self._device = torch.device("cpu")
        self._targets = self.train_targets

    def on(self, device: torch.device) -> InMemory:
        """Move all samples there, where they take little enough of its memory, else each batch."""
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
        on_host = self.train_inputs.is_cpu
        for batch, there, seed in zip(
            batches, moved_together(batches, self._device), seeds, strict=True
        ):
            stored = self.train_inputs.index_select(0, batch if on_host else there)
            generator = torch.Generator().manual_seed(seed)
            inputs = self.prepare(to_device(stored, self._device), generator)
            yield inputs, self._targets.index_select(0, there)

    def test_batches(self, part: int = 0, num_shares: int = 1) -> Batches:
        inputs, targets = self.test_inputs[part::num_shares], self.test_targets[part::num_shares]
        for stored, labels in zip(
            inputs.split(TEST_BATCH_SIZE), targets.split(TEST_BATCH_SIZE), strict=True
        ):
            if len(labels):  # an empty tensor splits into one empty piece
                yield self.prepare(to_device(stored, self._device), None), labels


def check_fits(data: str, num_bytes: int) -> None:
    """Raise a UserError, before it is drawn, where a data set exceeds this machine's memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if num_bytes > memory:
        raise UserError(
            f"--data {data}: takes {num_bytes / 1e9:,.1f} GB of memory and this machine has "
            f"{memory / 1e9:,.1f} GB; give smaller sizes"
        )
