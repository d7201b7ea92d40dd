"""The formats in which CIFAR, MNIST, SVHN, STL-10 and downsampled ImageNet are published.

Each reader returns images, N x C x H x W, and labels, N; damaged files make it raise anything.
"""

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np

from pcode.datasets.data_files import reading
from pcode.datasets.pickled import load_arrays

Array = np.ndarray[Any, Any]

# "u1" of the idx format: two zeros, 8 for bytes.
IDX_BYTES = b"\0\0\x08"


def read_cifar(path: Path) -> tuple[Array, Array]:
    """A pickled dict: `data`, N x 3072 bytes, and `labels` or, of CIFAR-100, `fine_labels`."""
    content = load_arrays(path)
    labels = content["fine_labels" if "fine_labels" in content else "labels"]
    return content["data"].reshape(-1, 3, 32, 32), np.asarray(labels)


def read_downsampled(path: Path, *, size: int) -> tuple[Array, Array]:
    """A pickled dict or an .npz file: `data`, N x 3 size^2 bytes, and `labels`, from 1."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            content = dict(arrays)
    else:
        content = load_arrays(path)
    return content["data"].reshape(-1, 3, size, size), np.asarray(content["labels"]) - 1


def read_idx(images: Path, labels: Path) -> tuple[Array, Array]:
    """Two idx files, N x H x W and N, each as it is or with gzip."""
    return _idx(images)[:, None], _idx(labels)


def _idx(path: Path) -> Array:
    """Bytes of any shape: IDX_BYTES, the number of sizes, the sizes (4 bytes, big-endian), them."""
    with reading(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        head = file.read(4)
        if head[:3] != IDX_BYTES or len(head) != 4:
            raise ValueError("no idx file of bytes")
        sizes = np.frombuffer(file.read(4 * head[3]), ">u4", count=head[3])
        # One more, to see that it ends there; not all, for a few bytes may unpack to very many.
        content = file.read(math.prod(map(int, sizes)) + 1)
        return np.frombuffer(content, np.uint8).reshape(sizes)


def read_matlab(path: Path) -> tuple[Array, Array]:
    """A MATLAB file: X, H x W x C x N bytes, and y, N x 1, where 10 is the digit 0."""
    # Here, because it takes a quarter of a second and no other data set needs it.
    from scipy.io import loadmat  # noqa: PLC0415

    content = loadmat(path)
    labels = content["y"].ravel()
    return content["X"].transpose(3, 2, 0, 1), np.where(labels == 10, 0, labels)


def read_stl(images: Path, labels: Path) -> tuple[Array, Array]:
    """Two files of bytes: 3 x 96 x 96 an image, columns first, and classes from 1."""
    with reading(images):
        pixels = np.fromfile(images, np.uint8).reshape(-1, 3, 96, 96).swapaxes(2, 3)
    with reading(labels):
        return pixels, np.fromfile(labels, np.uint8).astype(np.int64) - 1
