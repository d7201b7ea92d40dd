"""Data sets that are drawn: nothing to download, of any shape and size, and learnable."""

import math
import re

import numpy as np
import torch
from numpy.typing import NDArray

from pcode.datasets.base import Dataset, Split
from pcode.datasets.in_memory import LEVELS, InMemory, check_fits, image_dataset
from pcode.datasets.text import BpttLength, load_synthetic_text
from pcode.utils.errors import UserError
from pcode.utils.seeding import derive_seed

# What is drawn belongs to the data set, not to the run: every run has the same samples.
SEED = 0
DEFAULTS = ("3x32x32", "10", "2560")
NUMBER = r"[1-9]\d{0,31}"
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

    The defaults are 3x32x32, 10 classes and 2,560 samples; the other arguments are for text.
    """
    first, _, of_text = parameters.partition(":")
    if first == "text":
        reading = {"batch_size": batch_size, "n_mpi_process": n_mpi_process}
        return load_synthetic_text(of_text, rnn_bptt_len=rnn_bptt_len, **reading)
    shape, num_classes, num_train = _parse(parameters)
    sizes = (num_train, -(-num_train // TEST_SHARE))
    name = f"synthetic:{parameters}" if parameters else "synthetic"
    images = len(shape) == 3
    sample_bytes = math.prod(shape) if images else 4 * shape[0]
    class_bytes = shape[0] * COARSE**2 if images else sample_bytes
    check_fits(name, sum(sizes) * (sample_bytes + TARGET_BYTES) + num_classes * class_bytes)
    kind = "synthetic images" if images else "synthetic vectors"
    generator = np.random.default_rng(derive_seed(SEED, kind, num_classes, *shape))
    if images:
        squares = (num_classes, shape[0], COARSE, COARSE)
        levels = generator.integers(LEVELS // 2, size=squares, dtype=np.uint8)
        train, test = (_images(generator, levels, shape, size) for size in sizes)
        return image_dataset(name, train, test, num_classes, padding=min(shape[1:]) // 8)
    means = generator.standard_normal((num_classes, *shape), dtype=np.float32)
    means *= CLASS_DISTANCE / shape[0] ** 0.5
    train, test = (_vectors(generator, means, size) for size in sizes)
    return InMemory(name, train, test, num_classes)


def _parse(parameters: str) -> tuple[tuple[int, ...], int, int]:
    """Parse the shape and the numbers of classes and of samples."""
    given = parameters.split(":") if parameters else []
    shape, *numbers = (*given, *DEFAULTS[len(given) :])
    unfit = [number for number in numbers if not re.fullmatch(NUMBER, number, re.ASCII)]
    if len(given) > len(DEFAULTS):
        reason = f"{len(given)} parameters are too many"
    elif not re.fullmatch(rf"{NUMBER}(x{NUMBER}x{NUMBER})?", shape, re.ASCII):
        reason = f"{shape!r} is no shape"
    elif unfit:
        reason = f"{unfit[0]!r} is no number from 1 on"
    else:
        num_classes, size = map(int, numbers)
        return tuple(map(int, shape.split("x"))), num_classes, size
    raise UserError(
        f"--data synthetic:{parameters}: {reason}; synthetic[:SHAPE[:CLASSES[:SIZE]]], such as "
        "synthetic:3x32x32:10:2560 for images or synthetic:2000:2:4096 for vectors, "
        "or synthetic:text"
    )


def _images(
    generator: np.random.Generator, levels: NDArray[np.uint8], shape: tuple[int, ...], size: int
) -> Split:
    """Draw images of these classes' patterns: levels are classes x C x COARSE x COARSE."""
    _, height, width = shape
    rows, columns = (np.arange(length) * COARSE // length for length in (height, width))
    targets = torch.arange(size) % len(levels)
    images = torch.empty(size, *shape, dtype=torch.uint8)
    for some, classes in zip(
        images.split(DRAWN_AT_ONCE), targets.split(DRAWN_AT_ONCE), strict=True
    ):
        # Half of a byte: ten times as fast as integers below 128.
        noise = np.frombuffer(generator.bytes(some.numel()), np.uint8).reshape(some.shape) >> 1
        patterns = levels[classes.numpy()].take(columns, 3).take(rows, 2)
        some.copy_(torch.from_numpy(noise + patterns))
    return Split(images, targets)


def _vectors(generator: np.random.Generator, means: NDArray[np.float32], size: int) -> Split:
    """Draw vectors around these classes' means: classes x N."""
    targets = torch.arange(size) % len(means)
    vectors = generator.standard_normal((size, means.shape[1]), dtype=np.float32)
    vectors += means[targets.numpy()]
    return Split(torch.from_numpy(vectors), targets)
