"""What a data set is: tensors in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set of square images, ready for a model.

    Attributes:
        name: as `--data` names it.
        train_inputs, test_inputs: float32, N x channels x height x width, normalised with the
            training set's mean and standard deviation.
        train_targets, test_targets: int64, N, from 0 to num_classes - 1.
        num_classes: how many classes there are.
    """

    name: str
    train_inputs: torch.Tensor
    train_targets: torch.Tensor
    test_inputs: torch.Tensor
    test_targets: torch.Tensor
    num_classes: int

    @property
    def num_channels(self) -> int:
        return self.train_inputs.shape[1]

    @property
    def image_size(self) -> int:
        """Height and width, in pixels."""
        return self.train_inputs.shape[2]
