"""Data sets that lie in memory as tensors, and what becomes of a batch of images."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pcode.datasets.base import TEST_BATCH_SIZE, Batches, Dataset, Split
from pcode.utils.devices import cached_on, memory_bytes, moved_together, to_device
from pcode.utils.errors import UserError

# Of a device's memory, up to which all samples lie on it, for each process.
LARGEST_SHARE = 1 / 8
# Values of a byte.
LEVELS = 256
# Images whose pixels are counted at once.
COUNTED_AT_ONCE = 4096

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


@dataclass(frozen=True, eq=False)
class ImagePreparation:
    """Stored images -> a model's inputs: an InMemory data set's `prepare`.

    With a generator and a padding, every image is cropped, at a place of its own, from itself with
    zeros around it, and is mirrored with probability 1/2; then, with or without, pixels become
    (pixel - mean) / deviation of their channel, float32.

    It works on the device on which the images lie; the draws are made on the CPU, so that they are
    the same on every device. Nothing is summed, so that the number of threads changes no bit.

    Source: He, Zhang, Ren, Sun, Deep residual learning for image recognition (CVPR 2016), section
    4.2. The values are those of torchvision's RandomCrop, RandomHorizontalFlip, ToTensor and
    Normalize, to 1e-6; where those take an image at a time, this takes a batch.

    Attributes:
        mean, deviation: of each channel, float32, C x 1 x 1, of pixels from 0 to 255.
        padding: zeros on each side, in pixels; None: neither crops nor mirror images.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    padding: int | None = None

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Return a batch of float32 inputs of images, uint8, N x C x H x W.

        The generator is a CPU's; None for the test set, which is taken as it is.
        """
        if generator is not None and self.padding is not None:
            images = crops_and_mirror_images(images, self.padding, generator)
        # Two passes in place after the conversion: a type promotion costs more than all three, and
        # a division more than both.
        inputs = images.to(torch.float32)
        inputs -= cached_on(self.mean, images.device)
        inputs *= 1 / cached_on(self.deviation, images.device)
        return inputs


def crops_and_mirror_images(
    images: torch.Tensor, padding: int, generator: torch.Generator
) -> torch.Tensor:
    """Crop every padded image to its own size at random, and mirror it with probability 1/2.

    All images, N x C x H x W, and all their mirror images are laid out with their zeros in one
    sheet. A crop is then a window of it that its first pixel alone identifies, and one indexed copy
    of a view of all windows makes the batch. The generator is a CPU's.
    """
    count, channels, height, width = images.shape
    mirrored = torch.randint(2, (count,), generator=generator)
    top, left = torch.randint(2 * padding + 1, (2, count), generator=generator)
    sheet = images.new_zeros(2, count, channels, height + 2 * padding, width + 2 * padding)
    inside = sheet[..., padding : padding + height, padding : padding + width]
    inside[0] = images
    inside[1] = images.flip(-1)
    to_mirrored, to_next, to_channel, to_row, to_column = sheet.stride()
    last = (channels - 1) * to_channel + (height - 1) * to_row + (width - 1) * to_column
    windows = sheet.as_strided(
        (sheet.numel() - last, channels, height, width), (1, to_channel, to_row, to_column)
    )
    first = mirrored * to_mirrored + torch.arange(count) * to_next + top * to_row + left * to_column
    return windows.index_select(0, to_device(first, images.device))


def channel_statistics(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each channel's mean and deviation of pixels from 0 to 255, float32, C x 1 x 1.

    Of images uint8, N x C x H x W, from the counts of the 256 values in float64: exact for any
    number of pixels. The deviation of a channel that is the same everywhere is given as 1.
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
    """Make a data set of images, normalised by mean and deviation of its own training images.

    Constants that others print for a data set are these, rounded; computed, they are right for any
    part of it too. Inputs are uint8, N x C x H x W; `padding` is ImagePreparation's.
    """
    shapes = [" x ".join(map(str, images.shape[1:])) for images, _ in (train, test)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"--data {name}: the images for training are {shapes[0]}, those for testing "
            f"{shapes[1]} (channels x height x width); put files of one data set into --data_dir"
        )
    mean, deviation = channel_statistics(train.inputs)
    return InMemory(name, train, test, num_classes, ImagePreparation(mean, deviation, padding))
