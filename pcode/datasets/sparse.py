"""Data sets of sparse vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.sparse import csr_array

from pcode.datasets.base import TEST_BATCH_SIZE, Batches, Dataset


class SparseVectors(Dataset):
    """Vectors kept as sparse rows, made dense a batch at a time.

    Args:
        name, num_classes: see Dataset.
        train_inputs, test_inputs: float32, samples x features.
        train_targets, test_targets: int64, from 0 to num_classes - 1.
    """

    def __init__(
        self,
        name: str,
        *,
        train_inputs: csr_array,
        train_targets: torch.Tensor,
        test_inputs: csr_array,
        test_targets: torch.Tensor,
        num_classes: int,
    ) -> None:
        self.name, self.num_classes = name, num_classes
        self.train_inputs, self.train_targets = train_inputs, train_targets
        self.test_inputs, self.test_targets = test_inputs, test_targets
        self.input_shape = (train_inputs.shape[1],)
        self.num_test = len(test_targets)

    def read(self, batches: Sequence[torch.Tensor], seeds: Sequence[int]) -> Batches:
        return _dense(self.train_inputs, self.train_targets, batches)

    def test_batches(self, part: int = 0, num_parts: int = 1) -> Batches:
        mine = torch.arange(self.num_test)[part::num_parts]
        batches = mine.split(TEST_BATCH_SIZE) if len(mine) else ()
        return _dense(self.test_inputs, self.test_targets, batches)


def _dense(inputs: csr_array, targets: torch.Tensor, batches: Sequence[torch.Tensor]) -> Batches:
    for batch in batches:
        yield torch.from_numpy(inputs[batch.numpy()].toarray()), targets[batch]
