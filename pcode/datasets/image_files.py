"""Encoded images that stay on the disk until they are asked for."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from pcode.utils.errors import UserError
from pcode.utils.files import check_file, one_line


class EncodedImages(ABC):
    """Image files and their labels. Pickled for each worker: open nothing, keep it small.

    Attributes:
        classes: names of the classes.
        labels: int64, positions in `classes`.
    """

    classes: list[str]
    labels: torch.Tensor

    @abstractmethod
    def read(self, positions: Iterable[int]) -> list[bytes]:
        """Read the files at these positions, as they are, or raise a UserError."""

    @abstractmethod
    def name(self, position: int) -> str:
        """Return what an error calls that image."""


class FolderImages(EncodedImages):
    """The images of FOLDER/CLASS/*, in the order of torchvision.datasets.ImageFolder."""

    def __init__(self, folder: Path) -> None:
        # Here, because it takes a second and few runs read images from files.
        from torchvision.datasets import ImageFolder  # noqa: PLC0415

        try:
            listing = ImageFolder(str(folder))
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise UserError(f"{folder}: {reason}; must hold a folder of images per class") from None
        self.folder = folder
        self.classes = list(listing.classes)
        self.labels = torch.tensor(listing.targets, dtype=torch.int64)
        # An array of bytes: a million paths as objects take seconds to hand to a worker.
        paths = [os.path.relpath(path, folder) for path, _ in listing.samples]
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
