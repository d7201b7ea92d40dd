"""Data sets of images that lie in memory as bytes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from pcode.datasets.augment import ImagePreparation
from pcode.datasets.in_memory import InMemory
from pcode.utils.errors import UserError

# Values of a byte.
LEVELS = 256
# Images whose pixels are counted at once.
COUNTED_AT_ONCE = 4096


class Split(NamedTuple):
    """Images, uint8, N x C x H x W, and their classes, int64, N."""

    images: torch.Tensor
    targets: torch.Tensor


def make_split(images: np.ndarray[Any, Any], labels: Any, num_classes: int) -> Split:
    """What a file holds, as tensors.

    Args:
        images: N x C x H x W.
        labels: N integers, in an array or a list.

    Raises:
        ValueError: they are not bytes or no images, are none, differ in number, or a label is out
            of range.
    """
    labels = np.asarray(labels)
    if images.dtype != np.uint8:
        raise ValueError(f"the images are of {images.dtype}, not bytes")
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"what is of shape {images.shape} is not images")
    if labels.shape != images.shape[:1] or not labels.size:
        raise ValueError(f"{len(images)} images and labels of shape {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"the labels are of {labels.dtype}, not integers")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"classes from {low} to {high} where there are {num_classes}")
    # A copy only of what is not contiguous or lies in memory that nobody may write to.
    pixels = torch.from_numpy(np.require(images, requirements=["C", "W"]))
    return Split(pixels, torch.from_numpy(labels.astype(np.int64)))


def join(splits: list[Split]) -> Split:
    """The images of several files, in their order."""
    if len(splits) == 1:
        return splits[0]
    images, targets = zip(*splits, strict=True)
    return Split(torch.cat(images), torch.cat(targets))


def channel_statistics(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel's pixels, from 0 to 255, float32, C x 1 x 1.

    They are those of the counts of the 256 values, in float64: exact for any number of pixels. The
    deviation of a channel that is the same everywhere is given as 1: it is then 0 in every input.

    Args:
        images: uint8, N x C x H x W.
    """
    counts = torch.zeros(images.shape[1], LEVELS, dtype=torch.int64)
    for some in images.split(COUNTED_AT_ONCE):
        for channel, pixels in enumerate(some.unbind(1)):
            counts[channel] += torch.bincount(pixels.flatten(), minlength=LEVELS)
    shares = counts.double() / counts.sum(1, keepdim=True)
    values = torch.arange(LEVELS, dtype=torch.float64)
    mean = (shares * values).sum(1, keepdim=True)
    variance = (shares * (values - mean).square()).sum(1, keepdim=True)
    deviation = torch.where(variance > 0, variance.sqrt(), 1.0)
    return mean.float()[..., None], deviation.float()[..., None]


def image_dataset(
    name: str, train: Split, test: Split, num_classes: int, padding: int | None
) -> InMemory:
    """A data set of images, normalised by mean and deviation of its own training images.

    Constants that others print for a data set are these, rounded; computed, they are right for any
    part of it too.

    Args:
        name, num_classes: see Dataset.
        padding: see ImagePreparation.

    Raises:
        UserError: the images for testing are of another shape than those for training.
    """
    shapes = [" x ".join(map(str, images.shape[1:])) for images, _ in (train, test)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"--data {name}: the images for training are {shapes[0]}, those for testing "
            f"{shapes[1]} (channels x height x width); put files of one data set into --data_dir"
        )
    mean, deviation = channel_statistics(train.images)
    return InMemory(
        name,
        train_inputs=train.images,
        train_targets=train.targets,
        test_inputs=test.images,
        test_targets=test.targets,
        num_classes=num_classes,
        prepare=ImagePreparation(mean, deviation, padding),
    )
