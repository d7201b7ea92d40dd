"""Data sets that are drawn: nothing to download, of any shape and size, and learnable."""

from __future__ import annotations

import math
import re
from typing import NoReturn

import numpy as np
import torch

from pcode.datasets.base import BpttLength, Dataset
from pcode.datasets.drawn_size import check_fits
from pcode.datasets.images import LEVELS, Split, image_dataset
from pcode.datasets.in_memory import InMemory
from pcode.datasets.text import load_synthetic_text
from pcode.utils.errors import UserError
from pcode.utils.seeding import derive_seed

# What is drawn belongs to the data set, not to the run: every run has the same samples.
SEED = 0
DEFAULTS = ("3x32x32", "10", "2560")
TEST_SHARE = 5
TARGET_BYTES = 8
# Of a class's pattern of an image: squares on a side.
COARSE = 4
# Drawn at once, so that the noise of large images needs little memory.
DRAWN_AT_ONCE = 256
# Distance of each class's mean from 0, in deviations of the noise: two are about 5.7 apart.
CLASS_DISTANCE = 4.0


def load_synthetic(
    parameters: str, rnn_bptt_len: BpttLength, batch_size: int, n_mpi_process: int
) -> Dataset:
    """`synthetic[:SHAPE[:CLASSES[:SIZE]]]`, or `synthetic:text...` (pcode/datasets/text.py).

    SIZE samples for training and a fifth of it for testing, in turn of each class. Of an image,
    CxHxW, each class has a pattern of 4 x 4 squares in each channel, to which noise of the same
    size is added; images are augmented like photographs. Of a vector, N, each class has a mean,
    and normal noise with deviation 1 is added.

    Args:
        parameters: what follows "synthetic:"; 3x32x32, 10 classes and 2,560 samples by default.
        rnn_bptt_len, batch_size, n_mpi_process: for text.

    Raises:
        UserError: the parameters cannot be read, or so many samples do not fit into memory.
    """
    if parameters.partition(":")[0] == "text":
        return load_synthetic_text(
            parameters.removeprefix("text").removeprefix(":"),
            rnn_bptt_len=rnn_bptt_len,
            batch_size=batch_size,
            n_mpi_process=n_mpi_process,
        )
    shape, num_classes, num_train = _read(parameters)
    num_test = -(-num_train // TEST_SHARE)
    name = f"synthetic:{parameters}" if parameters else "synthetic"
    images = len(shape) == 3
    sample_bytes = math.prod(shape) if images else 4 * shape[0]
    class_bytes = shape[0] * COARSE**2 if images else sample_bytes
    num_samples = num_train + num_test
    check_fits(name, num_samples * (sample_bytes + TARGET_BYTES) + num_classes * class_bytes)
    if not images:
        return _vectors(name, shape[0], num_classes, num_train, num_test)
    generator = np.random.default_rng(derive_seed(SEED, "synthetic images", num_classes, *shape))
    squares = (num_classes, shape[0], COARSE, COARSE)
    levels = generator.integers(LEVELS // 2, size=squares, dtype=np.uint8)
    train = _images(generator, levels, shape, num_train)
    test = _images(generator, levels, shape, num_test)
    return image_dataset(name, train, test, num_classes, padding=min(shape[1:]) // 8)


def _read(parameters: str) -> tuple[tuple[int, ...], int, int]:
    """Shape, number of classes and of samples."""
    given = parameters.split(":") if parameters else []
    if len(given) > len(DEFAULTS):
        _refuse(parameters, f"{len(given)} parameters are too many")
    shape, classes, size = (*given, *DEFAULTS[len(given) :])
    if not re.fullmatch(r"[1-9]\d{0,31}(x[1-9]\d{0,31}x[1-9]\d{0,31})?", shape, re.ASCII):
        _refuse(parameters, f"{shape!r} is no shape")
    for number in (classes, size):
        if not re.fullmatch(r"[1-9]\d{0,31}", number, re.ASCII):
            _refuse(parameters, f"{number!r} is no number from 1 on")
    return tuple(map(int, shape.split("x"))), int(classes), int(size)


def _refuse(parameters: str, reason: str) -> NoReturn:
    raise UserError(
        f"--data synthetic:{parameters}: {reason}; synthetic[:SHAPE[:CLASSES[:SIZE]]], such as "
        "synthetic:3x32x32:10:2560 for images or synthetic:2000:2:4096 for vectors, "
        "or synthetic:text"
    )


def _classes(size: int, num_classes: int) -> torch.Tensor:
    return torch.arange(size) % num_classes


def _images(
    generator: np.random.Generator,
    levels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    shape: tuple[int, ...],
    size: int,
) -> Split:
    """`size` images of these classes' patterns: levels are classes x C x COARSE x COARSE."""
    _, height, width = shape
    rows, columns = (np.arange(length) * COARSE // length for length in (height, width))
    targets = _classes(size, len(levels))
    images = torch.empty(size, *shape, dtype=torch.uint8)
    for some, classes in zip(
        images.split(DRAWN_AT_ONCE), targets.split(DRAWN_AT_ONCE), strict=True
    ):
        # Half of a byte: ten times as fast as integers below 128.
        noise = np.frombuffer(generator.bytes(some.numel()), np.uint8).reshape(some.shape) >> 1
        patterns = levels[classes.numpy()].take(columns, 3).take(rows, 2)
        some.copy_(torch.from_numpy(noise + patterns))
    return Split(images, targets)


def _vectors(
    name: str, num_features: int, num_classes: int, num_train: int, num_test: int
) -> InMemory:
    generator = np.random.default_rng(
        derive_seed(SEED, "synthetic vectors", num_classes, num_features)
    )
    means = torch.from_numpy(
        generator.standard_normal((num_classes, num_features), dtype=np.float32)
    )
    means *= CLASS_DISTANCE / num_features**0.5

    def draw(size: int) -> tuple[torch.Tensor, torch.Tensor]:
        targets = _classes(size, num_classes)
        noise = generator.standard_normal((size, num_features), dtype=np.float32)
        return torch.from_numpy(noise).add_(means[targets]), targets

    train_inputs, train_targets = draw(num_train)
    test_inputs, test_targets = draw(num_test)
    return InMemory(
        name,
        train_inputs=train_inputs,
        train_targets=train_targets,
        test_inputs=test_inputs,
        test_targets=test_targets,
        num_classes=num_classes,
    )
