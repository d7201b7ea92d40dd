"""CIFAR-10, CIFAR-100, MNIST, SVHN, STL-10 and downsampled ImageNet.

torchvision fetches them, and checks what it fetches against the published checksums. The files are
read here: torchvision rejects any file without the published checksum, so that a part of a data set
or other images in the same format could not be used, opens CIFAR's pickles with whatever they ask
for, and takes a second to import on every rank.
"""

import tarfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from pcode.datasets.data_files import alone
from pcode.datasets.images import ImageFiles
from pcode.datasets.in_memory import InMemory
from pcode.datasets.vision_formats import read_arrays, read_idx, read_matlab, read_stl
from pcode.utils.errors import UserError
from pcode.utils.files import one_line
from pcode.utils.options import Option

_FETCHED_AS_TAR = ("CIFAR10", "CIFAR100", "STL10")
# Pixels on a side of downsampled ImageNet.
SIZES = (8, 16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class VisionSet(ImageFiles):
    """A data set of images that torchvision can fetch."""

    # torchvision's class, and what it calls the parts that are fetched apart.
    fetched_as: tuple[str, tuple[bool | str, ...]]

    def fetch(self, name: str, folder: Path) -> None:
        """Put the files that are missing into the folder; those that are there stay as they are.

        Of several ranks that come at once, one downloads and the others wait. What is not whole
        never has a file's name: the download goes to a folder beside, and only these files are
        moved when it ends.

        Raises:
            UserError: they could not be fetched, or the folder cannot be written.
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


# Crops and mirror images: CIFAR's as in He, Zhang, Ren, Sun, Deep residual learning for image
# recognition (CVPR 2016), section 4.2. None of SVHN, as in Zagoruyko, Komodakis, Wide residual
# networks (BMVC 2016), section 3, nor of MNIST: mirrored digits are none. STL-10's, with 12 pixels
# around 96 x 96, as in DeVries, Taylor, Improved regularization of convolutional neural networks
# with Cutout (arXiv 1708.04552).
VISION = {
    "cifar10": VisionSet(
        train=tuple((f"cifar-10-batches-py/data_batch_{number}",) for number in range(1, 6)),
        test=(("cifar-10-batches-py/test_batch",),),
        read=read_arrays,
        num_classes=10,
        fetched_as=("CIFAR10", (True,)),
        padding=4,
    ),
    "cifar100": VisionSet(
        train=(("cifar-100-python/train",),),
        test=(("cifar-100-python/test",),),
        read=read_arrays,
        num_classes=100,
        fetched_as=("CIFAR100", (True,)),
        padding=4,
    ),
    "mnist": VisionSet(
        train=(("MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/train-labels-idx1-ubyte"),),
        test=(("MNIST/raw/t10k-images-idx3-ubyte", "MNIST/raw/t10k-labels-idx1-ubyte"),),
        read=read_idx,
        num_classes=10,
        fetched_as=("MNIST", (True,)),
        ending=".gz",
    ),
    "svhn": VisionSet(
        train=(("train_32x32.mat",),),
        test=(("test_32x32.mat",),),
        read=read_matlab,
        num_classes=10,
        fetched_as=("SVHN", ("train", "test")),
    ),
    "stl10": VisionSet(
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
    download: Annotated[bool, Option("fetch the data set where it is not there yet")] = False,
) -> InMemory:
    """One of VISION, from the files that lie in data_dir as torchvision puts them there.

    Of SVHN it is the 73,257 digits for training without the extra ones, of STL-10 the 5,000
    labelled images.
    """
    files, folder = VISION[name], Path(data_dir)
    absent = files.missing(folder)
    if absent and not download:
        raise UserError(
            f"--data {name}: {', '.join(absent)} not found in --data_dir {data_dir}; "
            "name the folder that holds it, or fetch it with --download True"
        )
    if absent:
        files.fetch(name, folder)
    return files.load(name, folder)


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
    folder = Path(data_dir) / name
    files = ImageFiles(
        train=tuple((f"train_data_batch_{number}",) for number in range(1, 11)),
        test=(("val_data",),),
        read=partial(read_arrays, size=size, first=1),
        num_classes=1000,
        padding=size // 8,
        ending=".npz",
    )
    absent = files.missing(folder)
    if absent:
        raise UserError(
            f"--data {name}: {', '.join(absent)} not found in {folder}; fetch the files of "
            f"downsampled ImageNet, {size} x {size}, from image-net.org and put them there, "
            "or name another --data_dir"
        )
    return files.load(name, folder)
