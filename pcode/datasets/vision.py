"""CIFAR-10, CIFAR-100, MNIST, SVHN, STL-10 and downsampled ImageNet.

torchvision fetches them, and checks what it fetches against the published checksums. The files are
read here: torchvision rejects any file without the published checksum, so that a part of a data set
or other images in the same format could not be used, opens CIFAR's pickles with whatever they ask
for, and takes a second to import on every rank.
"""

import math
import os
import re
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED

import numpy as np
import torch

from pcode.datasets.base import Split
from pcode.datasets.data_files import alone, reading
from pcode.datasets.in_memory import InMemory, image_dataset
from pcode.datasets.pickled import as_array, load_arrays
from pcode.utils.errors import UserError
from pcode.utils.files import beside, most_unpacked, one_line, shortened, unpacked
from pcode.utils.options import Option

Array = np.ndarray[Any, Any]

_FETCHED_AS_TAR = ("CIFAR10", "CIFAR100", "STL10")
# Pixels on a side of downsampled ImageNet.
SIZES = (8, 16, 32, 64)
# "u1" of the idx format: two zeros, 8 for bytes.
_MATLAB_NUMBERS = re.compile("u?int(8|16|32|64)|single|double")
IDX_BYTES = b"\0\0\x08"


# The readers return images, N x C x H x W, and labels, N; damaged files make them raise anything.


def _entry(content: Mapping[str, Any], *keys: str) -> Any:
    """Return what a file holds by the first of these keys that it has, or raise a ValueError."""
    for key in keys:
        if key in content:
            return content[key]
    held = ", ".join(str(key) for key in content if not str(key).startswith("__"))  # MATLAB's
    raise ValueError(f"it holds {shortened(held)}, but no {' or '.join(keys)}")


def _check_unpacked(path: Path, num_bytes: int) -> None:
    if num_bytes > most_unpacked(path):
        raise ValueError(f"it unpacks to {num_bytes:,} bytes, which no data does")


def read_arrays(path: Path, *, size: int = 32, first: int = 0) -> tuple[Array, Array]:
    """Read a pickled dict or .npz file: `data`, N x 3 size^2 bytes, and `labels` from `first` on.

    The data may be N x 3 x size x size, N x 3 x size^2, or N x size x size x 3, as well, with axes
    of length 1 anywhere, or flat. Of CIFAR-100 the labels are called `fine_labels`.
    """
    content: Any
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as content:
            parts = content.zip.infolist()
            _check_unpacked(path, sum(part.file_size for part in parts))
            if not {part.compress_type for part in parts} <= {ZIP_STORED, ZIP_DEFLATED}:
                raise ValueError("it is compressed as NumPy does not")  # and unpacks at once
            labels, data = _entry(content, "fine_labels", "labels"), _entry(content, "data")
    else:
        content, most = load_arrays(path), path.stat().st_size
        labels = as_array(_entry(content, "fine_labels", "labels"), most)
        data = as_array(_entry(content, "data"), most)
    shape = tuple(length for length in data.shape if length != 1)
    images = (3 * size**2,), (3, size**2), (3, size, size)
    if data.shape[1:] == (size, size, 3):
        data = data.transpose(0, 3, 1, 2)
    elif data.ndim != 1 and shape not in images and shape[1:] not in images:
        raise ValueError(
            f"data of shape {data.shape}; expected N x {3 * size**2}, all red first, "
            f"N x 3 x {size} x {size} or N x {size} x {size} x 3"
        )
    # In 64 bits, where 0 - 1 is no byte.
    return data.reshape(-1, 3, size, size), np.subtract(labels, first, dtype=np.int64)


def read_idx(images: Path, labels: Path) -> tuple[Array, Array]:
    """Read two idx files, N x H x W and N, each as it is or with gzip."""
    return _idx(images)[:, None], _idx(labels)


def _idx(path: Path) -> Array:
    """Read bytes of any shape: IDX_BYTES, how many sizes, these (4 bytes, big-endian), bytes."""
    with reading(path), unpacked(path) as file:
        head = file.read(4)
        if head[:3] != IDX_BYTES or len(head) != 4:
            raise ValueError("no idx file of bytes")
        sizes = np.frombuffer(file.read(4 * head[3]), ">u4", count=head[3])
        # One more, to see that it ends there; not all, for a few bytes may unpack to very many.
        content = file.read(math.prod(map(int, sizes)) + 1)
        return np.frombuffer(content, np.uint8).reshape(sizes)


def read_matlab(path: Path) -> tuple[Array, Array]:
    """Read a MATLAB file: X, H x W x C x N bytes, and y, N x 1, where 10 is the digit 0."""
    # Here, because it takes a quarter of a second and no other data set needs it.
    from scipy.io import loadmat, whosmat  # noqa: PLC0415

    names = ("X", "y")
    arrays = [(shape, kind) for name, shape, kind in whosmat(path) if name in names]
    if not all(_MATLAB_NUMBERS.fullmatch(kind) for _, kind in arrays):
        raise ValueError("X and y hold something else than numbers")
    _check_unpacked(path, sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in arrays))
    content = loadmat(path, variable_names=names)
    labels = _entry(content, "y").ravel()
    return _entry(content, "X").transpose(3, 2, 0, 1), np.where(labels == 10, 0, labels)


def read_stl(images: Path, labels: Path) -> tuple[Array, Array]:
    """Read two files of bytes: 3 x 96 x 96 an image, columns first, and classes from 1."""
    with reading(images):
        pixels = np.fromfile(images, np.uint8).reshape(-1, 3, 96, 96).swapaxes(2, 3)
    with reading(labels):
        return pixels, np.fromfile(labels, np.uint8).astype(np.int64) - 1


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """A data set of images as it is published.

    Attributes:
        train, test: the files of each part. Each tuple is what `read` takes: one file, or one of
            images and one of labels. It returns images, N x C x H x W, and labels, N.
        padding: see ImagePreparation.
        ending: that files may have besides, compressed; they are read as they are.
        fetched_as: torchvision's class, and what it calls the parts that are fetched apart.
    """

    train: tuple[tuple[str, ...], ...]
    test: tuple[tuple[str, ...], ...]
    read: Callable[..., tuple[Array, Array]]
    num_classes: int
    padding: int | None = None
    ending: str = ""
    fetched_as: tuple[str, tuple[bool | str, ...]] = ("", ())

    @property
    def names(self) -> list[str]:
        return [name for names in (*self.train, *self.test) for name in names]

    def _stored(self, folder: Path, name: str) -> Path:
        """Return the file, or, where it is not there, the one with the ending if that is."""
        path, packed = folder / name, folder / f"{name}{self.ending}"
        return packed if not os.path.exists(path) and os.path.exists(packed) else path

    def missing(self, folder: Path) -> list[str]:
        """Return the files that are not in the folder, with or without the ending."""
        return [name for name in self.names if not os.path.exists(self._stored(folder, name))]

    def fetch(self, name: str, folder: Path) -> None:
        """Put the files that are missing into the folder; those that are there stay as they are.

        Of several ranks that come at once, one downloads and the others wait. What is not whole
        never has a file's name: the download goes to a folder beside, and only these files are
        moved when it ends.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with alone(folder / f".{name}.lock"):
                absent = self.missing(folder)
                if not absent:
                    return
                with TemporaryDirectory(dir=folder, prefix=f".{name}-") as beside:
                    self._download(beside)
                    for file in absent:
                        (folder / file).parent.mkdir(parents=True, exist_ok=True)
                        (Path(beside) / file).replace(folder / file)
        # URLError is an OSError, torchvision says RuntimeError for a wrong checksum, and a damaged
        # or malicious archive makes its readers raise nearly anything.
        except Exception as error:
            raise UserError(
                f"--download True: {name} could not be fetched ({one_line(error)}); "
                f"to go on without a network put {', '.join(self.names)} into {folder}"
            ) from error

    def _download(self, folder: str) -> None:
        # Here, because it takes a second and nothing else needs it.
        from torchvision import datasets  # noqa: PLC0415

        kind, parts = self.fetched_as
        # torchvision would unpack without it.
        if kind in _FETCHED_AS_TAR and not hasattr(tarfile, "data_filter"):
            raise RuntimeError("this Python's tarfile cannot unpack safely; 3.10.12 or 3.11.4 can")
        for part in parts:
            getattr(datasets, kind)(folder, part, download=True)

    def load(self, name: str, folder: Path, hint: str) -> InMemory:
        """Read the files, or raise a UserError; the hint says where missing ones belong."""
        if absent := self.missing(folder):
            near = beside(folder / absent[0])
            raise UserError(f"--data {name}: {', '.join(absent)} not found in {hint}{near}")
        train, test = (self._read(folder, part) for part in (self.train, self.test))
        return image_dataset(name, train, test, self.num_classes, self.padding)

    def _read(self, folder: Path, part: tuple[tuple[str, ...], ...]) -> Split:
        splits = [self._read_one([self._stored(folder, name) for name in names]) for names in part]
        if len(splits) == 1:  # no copy
            return splits[0]
        inputs, targets = zip(*splits, strict=True)
        return Split(torch.cat(inputs), torch.cat(targets))

    def _read_one(self, paths: Sequence[Path]) -> Split:
        with reading(*paths):
            images, labels = self.read(*paths)
            if images.dtype != np.uint8:
                raise ValueError(f"the images are of {images.dtype}, not bytes")
            if images.ndim != 4 or 0 in images.shape[1:]:
                raise ValueError(f"what is of shape {images.shape} is not images")
            if labels.shape != images.shape[:1] or not labels.size:
                raise ValueError(f"{len(images)} images and labels of shape {labels.shape}")
            if not np.issubdtype(labels.dtype, np.integer):
                raise ValueError(f"the labels are of {labels.dtype}, not integers")
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self.num_classes:
                raise ValueError(f"classes from {low} to {high} where there are {self.num_classes}")
        # A copy only of what is not contiguous or lies in memory that nobody may write to.
        pixels = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        return Split(pixels, torch.from_numpy(labels.astype(np.int64)))


# Crops and mirror images: CIFAR's as in He, Zhang, Ren, Sun, Deep residual learning for image
# recognition (CVPR 2016), section 4.2. None of SVHN, as in Zagoruyko, Komodakis, Wide residual
# networks (BMVC 2016), section 3, nor of MNIST: mirrored digits are none. STL-10's, with 12 pixels
# around 96 x 96, as in DeVries, Taylor, Improved regularization of convolutional neural networks
# with Cutout (arXiv 1708.04552).
VISION = {
    "cifar10": ImageFiles(
        train=tuple((f"cifar-10-batches-py/data_batch_{number}",) for number in range(1, 6)),
        test=(("cifar-10-batches-py/test_batch",),),
        read=read_arrays,
        num_classes=10,
        fetched_as=("CIFAR10", (True,)),
        padding=4,
    ),
    "cifar100": ImageFiles(
        train=(("cifar-100-python/train",),),
        test=(("cifar-100-python/test",),),
        read=read_arrays,
        num_classes=100,
        fetched_as=("CIFAR100", (True,)),
        padding=4,
    ),
    "mnist": ImageFiles(
        train=(("MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/train-labels-idx1-ubyte"),),
        test=(("MNIST/raw/t10k-images-idx3-ubyte", "MNIST/raw/t10k-labels-idx1-ubyte"),),
        read=read_idx,
        num_classes=10,
        fetched_as=("MNIST", (True,)),
        ending=".gz",
    ),
    "svhn": ImageFiles(
        train=(("train_32x32.mat",),),
        test=(("test_32x32.mat",),),
        read=read_matlab,
        num_classes=10,
        fetched_as=("SVHN", ("train", "test")),
    ),
    "stl10": ImageFiles(
        train=(("stl10_binary/train_X.bin", "stl10_binary/train_y.bin"),),
        test=(("stl10_binary/test_X.bin", "stl10_binary/test_y.bin"),),
        read=read_stl,
        num_classes=10,
        fetched_as=("STL10", ("train",)),
        padding=12,
    ),
}


def load_vision(
    name: str,
    data_dir: str,
    download: Annotated[
        bool, Option("fetch the data set where it is not there yet", decides=False, compared=False)
    ] = False,
) -> InMemory:
    """Read one of VISION, from the files that lie in data_dir as torchvision puts them there.

    Of SVHN it is the 73,257 digits for training without the extra ones, of STL-10 the 5,000
    labelled images.
    """
    files, folder = VISION[name], Path(data_dir)
    if download and files.missing(folder):
        files.fetch(name, folder)
    hint = f"--data_dir {data_dir}; name the folder that holds it, or fetch it with --download True"
    return files.load(name, folder, hint)


def load_downsampled(size: int, data_dir: str) -> InMemory:
    """1,281,167 images for training and 50,000 for testing, 3 x size x size, 1000 classes.

    They are read from DATA_DIR/imagenetSIZE, which holds the eleven published files
    train_data_batch_1 to train_data_batch_10 and val_data, pickled or as .npz. In memory they take
    3.9 GB at 32 x 32 and 15.7 GB at 64 x 64, in every process, and twice that while they are read.

    Source: Chrabaszcz, Loshchilov, Hutter, A downsampled variant of ImageNet as an alternative to
    the CIFAR datasets (arXiv 1707.08819). Crops are shifted by up to 4 pixels at 32 x 32, as there,
    and by as much of the image, an eighth, at other sizes. Difference: images are normalised by
    deviations as well as by means, a mean for each channel rather than for each pixel.
    """
    name = f"imagenet{size}"
    files = ImageFiles(
        train=tuple((f"train_data_batch_{number}",) for number in range(1, 11)),
        test=(("val_data",),),
        read=partial(read_arrays, size=size, first=1),
        num_classes=1000,
        padding=size // 8,
        ending=".npz",
    )
    folder = Path(data_dir, name)
    hint = (
        f"{folder}; fetch the files of downsampled ImageNet, {size} x {size}, from image-net.org "
        "and put them there, or name another --data_dir"
    )
    return files.load(name, folder, hint)
