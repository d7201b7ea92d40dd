"""The formats in which CIFAR, MNIST, SVHN, STL-10 and downsampled ImageNet are published.

Each reader returns images, N x C x H x W, and labels, N; damaged files make it raise anything.
"""

import gzip
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from pcode.datasets.data_files import reading

# What a pickled array is made with, by NumPy 1 and 2, in protocols up to 5.
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
}


def _encode(text: str, encoding: str) -> bytes:
    """Decode bytes as Python 3 writes them in protocols 0 to 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes as {encoding}")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 renamed the package; 1.26 knows both names.
        module = module.replace("numpy.core.", "numpy._core.")
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}; only arrays are opened")
        return super().find_class(module, name)


def load_arrays(path: Path) -> dict[str, Any]:
    """Load a pickled dict of NumPy arrays, lists, numbers and text.

    A pickle may name any function and have it called, and a data file comes from somewhere else:
    here it may name those alone that make arrays. Files written by Python 2 are read too; their
    strings are taken as latin-1.

    Raises:
        Exception: of nearly any kind where the file is damaged; pickle.UnpicklingError where it
            asks for anything else or holds no dict.
    """
    with path.open("rb") as file:
        content = _ArraysOnly(file, encoding="latin1").load()
    if not isinstance(content, dict):
        raise pickle.UnpicklingError(f"it holds a {type(content).__name__}, not a dict")
    return content


Array = np.ndarray[Any, Any]

# "u1" of the idx format: two zeros, 8 for bytes.
IDX_BYTES = b"\0\0\x08"


def read_arrays(path: Path, *, size: int = 32, first: int = 0) -> tuple[Array, Array]:
    """A pickled dict or an .npz file: `data`, N x 3 size^2 bytes, and `labels`, from `first` on.

    Of CIFAR-100 they are called `fine_labels`.
    """
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            content = dict(arrays)
    else:
        content = load_arrays(path)
    labels = content["fine_labels" if "fine_labels" in content else "labels"]
    return content["data"].reshape(-1, 3, size, size), np.asarray(labels) - first


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
