"""Small data sets in the formats in which the real ones are published."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

Array = np.ndarray[Any, Any]


def draw(count: int, shape: tuple[int, ...], num_classes: int, seed: int) -> tuple[Array, Array]:
    """Random images, N x C x H x W, and labels."""
    generator = np.random.default_rng(seed)
    images = generator.integers(256, size=(count, *shape), dtype=np.uint8)
    return images, generator.integers(num_classes, size=count)


def python2_pickle(labels_key: str, data: Array, labels: list[int]) -> bytes:
    """{labels_key: labels, "data": data} as cPickle of Python 2 and NumPy 1 write it, protocol 2.

    Its strings are byte strings (opcodes U and T), which Python 3 never writes.
    """

    def text(content: bytes) -> bytes:
        if len(content) < 256:
            return b"U" + bytes([len(content)]) + content
        return b"T" + struct.pack("<i", len(content)) + content

    def integer(number: int) -> bytes:
        return b"J" + struct.pack("<i", number)

    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    array += integer(0) + b"\x85" + text(b"b") + b"\x87R"
    kind = b"cnumpy\ndtype\n" + text(b"u1") + integer(0) + integer(1) + b"\x87R"
    kind += b"(" + integer(3) + text(b"|") + b"NNN" + integer(-1) * 2 + integer(0) + b"tb"
    shape = b"(" + b"".join(map(integer, data.shape)) + b"t"
    array += b"(" + integer(1) + shape + kind + b"\x89" + text(data.tobytes()) + b"tb"
    numbers = b"](" + b"".join(map(integer, labels)) + b"e"
    return b"\x80\x02}(" + text(labels_key.encode()) + numbers + text(b"data") + array + b"u."


def write_cifar(path: Path, images: Array, labels: Array, labels_key: str = "labels") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(python2_pickle(labels_key, images.reshape(len(images), -1), labels.tolist()))


def write_cifar10(folder: Path, images: Array, labels: Array, test: tuple[Array, Array]) -> None:
    """Five batches for training, of equal length, and one for testing."""
    base = folder / "cifar-10-batches-py"
    for number, (some, theirs) in enumerate(
        zip(np.split(images, 5), np.split(labels, 5), strict=True), start=1
    ):
        write_cifar(base / f"data_batch_{number}", some, theirs)
    write_cifar(base / "test_batch", *test)


def idx(array: Array) -> bytes:
    """The idx format, of bytes."""
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_mnist(
    folder: Path, part: str, images: Array, labels: Array, *, packed: bool = False
) -> None:
    """Of part "train" or "t10k"; N x 1 x H x W."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, array in (("images-idx3", images[:, 0]), ("labels-idx1", labels)):
        content = idx(array)
        if packed:
            (raw / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(content))
        else:
            (raw / f"{part}-{name}-ubyte").write_bytes(content)


def write_svhn(folder: Path, part: str, images: Array, labels: Array) -> None:
    """Of part "train" or "test"; the digit 0 is written as 10."""
    classes = np.where(labels == 0, 10, labels).astype(np.uint8)
    content = {"X": images.transpose(2, 3, 1, 0), "y": classes[:, None]}
    savemat(folder / f"{part}_32x32.mat", content, do_compression=True)


def write_stl(folder: Path, part: str, images: Array, labels: Array) -> None:
    """Of part "train" or "test"; columns first, classes from 1."""
    base = folder / "stl10_binary"
    base.mkdir(parents=True, exist_ok=True)
    (base / f"{part}_X.bin").write_bytes(images.swapaxes(2, 3).tobytes())
    (base / f"{part}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())


def write_downsampled(
    folder: Path, file: str, images: Array, labels: Array, *, npz: bool = False
) -> None:
    """A batch of downsampled ImageNet; classes from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    data = images.reshape(len(images), -1)
    classes = [int(label) + 1 for label in labels]
    mean = data.mean(0)
    if npz:
        np.savez(folder / file, data=data, labels=np.array(classes), mean=mean)
    else:
        content = {"data": data, "labels": classes, "mean": mean}
        (folder / file).write_bytes(pickle.dumps(content, protocol=4))
