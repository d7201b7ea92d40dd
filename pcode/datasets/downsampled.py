"""ImageNet's images at 8 x 8, 16 x 16, 32 x 32 and 64 x 64 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pcode.datasets.data_files import missing, reading, stored
from pcode.datasets.images import Split, image_dataset, join, make_split
from pcode.datasets.in_memory import InMemory
from pcode.datasets.pickled import load_arrays
from pcode.utils.errors import UserError

SIZES = (8, 16, 32, 64)
NUM_CLASSES = 1000
TRAIN = tuple(f"train_data_batch_{number}" for number in range(1, 11))
TEST = "val_data"
NPZ = ".npz"


def _read(path: Path, size: int) -> Split:
    with reading(path):
        content: dict[str, Any]
        if path.suffix == NPZ:
            with np.load(path, allow_pickle=False) as arrays:
                content = dict(arrays)
        else:
            content = load_arrays(path)
        images = content["data"].reshape(-1, 3, size, size)
        return make_split(images, np.asarray(content["labels"]) - 1, NUM_CLASSES)


def load_downsampled(size: int, data_dir: str) -> InMemory:
    """1,281,167 images for training and 50,000 for testing, 3 x size x size, 1000 classes.

    They are read from DATA_DIR/imagenetSIZE, which holds the eleven published files
    train_data_batch_1 to train_data_batch_10 and val_data, pickled or as .npz. In memory they take
    3.9 GB at 32 x 32 and 15.7 GB at 64 x 64, in every process, and twice that while they are read.

    Source: Chrabaszcz, Loshchilov, Hutter, A downsampled variant of ImageNet as an alternative to
    the CIFAR datasets (arXiv 1707.08819). Crops are shifted by up to 4 pixels at 32 x 32, as there,
    and by as much of the image, an eighth, at other sizes. Difference: images are normalised by
    deviations as well as by means, a mean for each channel rather than for each pixel.

    Args:
        size: one of SIZES.

    Raises:
        UserError: a file is missing or damaged.
    """
    name = f"imagenet{size}"
    folder = Path(data_dir) / name
    absent = missing(folder, [*TRAIN, TEST], NPZ)
    if absent:
        raise UserError(
            f"--data {name}: {', '.join(absent)} not found in {folder}; fetch the files of "
            f"downsampled ImageNet, {size} x {size}, from image-net.org and put them there, "
            "or name another --data_dir"
        )
    train = join([_read(stored(folder / file, NPZ), size) for file in TRAIN])
    test = _read(stored(folder / TEST, NPZ), size)
    return image_dataset(name, train, test, NUM_CLASSES, padding=size // 8)
