"""ImageNet's images at 8 x 8, 16 x 16, 32 x 32 and 64 x 64 pixels."""

from functools import partial
from pathlib import Path

from pcode.datasets.images import ImageFiles
from pcode.datasets.in_memory import InMemory
from pcode.datasets.vision_formats import read_downsampled
from pcode.utils.errors import UserError

SIZES = (8, 16, 32, 64)


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
        read=partial(read_downsampled, size=size),
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
