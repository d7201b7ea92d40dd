"""Encoded images that stay on the disk until they are asked for: in folders, or in one LMDB file.

An LMDB file holds "meta", a JSON object {"format", "classes"}; "labels", little-endian 32-bit
integers; and image number i, the file as it is, under i as eight bytes, big-endian. Nothing of it
is a pickle: a data file must not be able to run code.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import lmdb
import numpy as np
import torch
from tqdm import tqdm

from pcode.utils.errors import UserError
from pcode.utils.files import check_file, is_hidden, one_line

FORMAT = "encoded images, version 1"
META, LABELS = b"meta", b"labels"
# Addresses, not memory or disk: the file is as large as what is in it.
MAP_BYTES = 1 << 40


class EncodedImages(ABC):
    """Image files and their labels. Pickled for each worker: open nothing, keep it small."""

    classes: list[str]
    labels: torch.Tensor  # int64, positions in `classes`

    @abstractmethod
    def read(self, positions: Iterable[int]) -> list[bytes]:
        """Read the files at these positions, as they are, or raise a UserError."""

    @abstractmethod
    def name(self, position: int) -> str:
        """Return what an error calls that image."""


class FolderImages(EncodedImages):
    """The images of FOLDER/CLASS/*, in the order of torchvision.datasets.ImageFolder.

    Hidden files and folders are left out (see `is_hidden`).
    """

    def __init__(self, folder: Path) -> None:
        # Here, because it takes a second and few runs read images from files.
        from torchvision.datasets import folder as reading  # noqa: PLC0415

        def is_shown(path: str) -> bool:  # a million times: no Path
            parts = path[len(str(folder)) :].split(os.sep)
            return reading.is_image_file(path) and not any(map(is_hidden, parts))

        try:
            names = [name for name in reading.find_classes(str(folder))[0] if not is_hidden(name)]
            if not names:
                raise OSError("holds no folder")
            numbers = {name: number for number, name in enumerate(names)}
            samples = reading.make_dataset(str(folder), numbers, is_valid_file=is_shown)
        except OSError as error:
            reason = error.strerror or one_line(error).rstrip(".")
            raise UserError(f"{folder}: {reason}; must hold a folder of images per class") from None
        self.folder = folder
        self.classes = names
        self.labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
        # An array of bytes: a million paths as objects take seconds to hand to a worker.
        paths = [os.path.relpath(path, folder) for path, _ in samples]
        self.paths = np.array([os.fsencode(path) for path in paths])

    def read(self, positions: Iterable[int]) -> list[bytes]:
        files = []
        for path in map(self.name, positions):
            try:
                check_file(path)
                files.append(Path(path).read_bytes())
            except OSError as error:
                raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        return files

    def name(self, position: int) -> str:
        return str(self.folder / os.fsdecode(self.paths[position]))


@contextmanager
def _reading(path: Path) -> Iterator[lmdb.Transaction]:
    """Open a file that is only read; nothing is written beside it."""
    try:
        check_file(path)
        with (
            lmdb.open(
                str(path), subdir=False, readonly=True, lock=False, readahead=False, create=False
            ) as environment,
            environment.begin() as transaction,
        ):
            num_pages, page_bytes = environment.info()["last_pgno"] + 1, environment.stat()["psize"]
            if os.path.getsize(path) < num_pages * page_bytes:  # whose pages would end the process
                raise OSError(f"it was cut; it had {num_pages * page_bytes:,} bytes")
            yield transaction
    except (lmdb.Error, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from None


class LmdbImages(EncodedImages):
    """The images of a file that write_lmdb made.

    The file is opened for each batch, which takes microseconds: an open one can neither be
    pickled nor be carried over a fork.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _reading(path) as transaction:
            meta = json.loads(bytes(transaction.get(META, b"null")))
            labels = np.frombuffer(transaction.get(LABELS, b""), "<i4").astype(np.int64)
            count = transaction.stat()["entries"] - 2
        if not isinstance(meta, dict) or meta.get("format") != FORMAT or len(labels) != count:
            raise UserError(f"{path}: was not made by python -m pcode.tools.to_lmdb")
        names = meta.get("classes")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}: does not name its classes")
        if not len(labels):
            raise UserError(f"{path}: holds no image")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(names):
            raise UserError(
                f"{path}: labels from {low} to {high} where there are {len(names)} classes"
            )
        self.classes, self.labels = names, torch.from_numpy(labels)

    def read(self, positions: Iterable[int]) -> list[bytes]:
        with _reading(self.path) as transaction:
            found = [transaction.get(int(position).to_bytes(8, "big")) for position in positions]
        if any(image is None for image in found):
            raise UserError(f"{self.path}: lacks some of its images")
        return [bytes(image) for image in found if image is not None]

    def name(self, position: int) -> str:
        return f"{self.path}, image {position}"


def write_lmdb(images: EncodedImages, path: Path, *, show: bool) -> None:
    """Write images, in their order, into a file that LmdbImages reads; show a progress bar.

    The file appears when it is whole; one that was there is replaced. It is a UserError where an
    image cannot be read or the file cannot be written.
    """
    try:
        with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            new = Path(folder, path.name)
            with lmdb.open(
                str(new), subdir=False, lock=False, sync=False, mode=0o666, map_size=MAP_BYTES
            ) as out:
                for position in tqdm(range(len(images.labels)), unit="image", disable=not show):
                    (image,) = images.read([position])
                    with out.begin(write=True) as transaction:
                        transaction.put(position.to_bytes(8, "big"), image, append=True)
                with out.begin(write=True) as transaction:
                    transaction.put(LABELS, images.labels.numpy().astype("<i4").tobytes())
                    meta = {"format": FORMAT, "classes": images.classes}
                    transaction.put(META, json.dumps(meta).encode())
                out.sync(True)
            os.replace(new, path)
    except (lmdb.Error, OSError) as error:
        raise UserError(f"{path}: cannot be written: {error}") from None
