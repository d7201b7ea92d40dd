"""ImageNet, or any folders of images, decoded when a batch needs them by other processes."""

import contextlib
import functools
import io
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import torch

from pcode.datasets.base import Batches, Dataset, share_batches
from pcode.datasets.encoded_images import EncodedImages, FolderImages, LmdbImages
from pcode.datasets.workers import made_by_workers, workers_context
from pcode.utils.errors import LoaderError, UserError, naming_flags
from pcode.utils.files import one_line
from pcode.utils.options import Option

SIDE, RESIZED_SIDE = 224, 256
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Each worker holds two batches in advance; one of the usual 512 would be 300 MB.
TEST_BATCH_SIZE = 64
# What images are decoded from. Of others of Pillow's some are programs, or may hold such a file,
# which another program runs.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "GIF", "TIFF", "WEBP")

# A batch: positions of its images, and what its augmentation is drawn from; None for testing.
Task = tuple[np.ndarray, int | None]


class Decoder:
    """Makes batches of encoded images; pickled for each worker.

    Training: a random crop of 8 to 100 % of the area, resized to 224 x 224, and a flip with
    probability 1/2. Testing: resized to 256 on the shorter side, the central 224 x 224. Both are
    normalised with ImageNet's mean and deviation (all as in torchvision's reference training).
    """

    def __init__(self, images: EncodedImages, training: bool) -> None:
        # Here, because it takes a second and few runs read images from files.
        from torchvision import transforms  # noqa: PLC0415

        self.images = images
        choose = (
            [transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip()]
            if training
            else [transforms.Resize(RESIZED_SIDE), transforms.CenterCrop(SIDE)]
        )
        self.transform = transforms.Compose(
            [*choose, transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)]
        )

    def __call__(self, task: Task) -> torch.Tensor | UserError:
        """float32 N x 3 x 224 x 224, or why there is none: a worker cannot raise in one line."""
        positions, seed = task
        try:
            # torchvision's transforms draw from torch's global generator.
            with torch.random.fork_rng(devices=[]):
                if seed is not None:
                    torch.default_generator.manual_seed(seed)
                files = self.images.read(positions)
                pairs = zip(positions, files, strict=True)
                return torch.stack([self._decode(int(place), file) for place, file in pairs])
        except UserError as error:
            return error

    def shared(self, task: Task) -> torch.Tensor | UserError | LoaderError:
        """Return the same in shared memory, for another process."""
        batch = self(task)
        if isinstance(batch, UserError):
            return batch
        try:
            batch.share_memory_()
        except RuntimeError:
            return LoaderError(f"no room for a batch of {batch.nbytes / 1e6:.0f} MB in /dev/shm")
        return batch

    def _decode(self, position: int, file: bytes) -> torch.Tensor:
        from PIL import Image  # noqa: PLC0415

        try:
            with Image.open(io.BytesIO(file), formats=FORMATS) as image:
                decoded: torch.Tensor = self.transform(image.convert("RGB"))
        # Damaged bytes make decoders raise nearly anything, and it all means the same here.
        except Exception as error:
            raise UserError(
                f"{self.images.name(position)}: is no image that can be decoded: {one_line(error)}"
            ) from None
        return decoded


class ImageNet(Dataset):
    """Images in files, decoded in num_workers processes, which end with each iterator (0: in this).

    The augmentation of a batch depends on its seed alone, not on the number of workers. With
    pin_memory batches lie in page-locked memory, from which a GPU copies faster. Workers that die,
    find no room for a batch or are stopped for longer than half the time limit are a LoaderError.
    It is a UserError where a class of `test` is not in `train`; one of `train` that is not in
    `test` is a notice.
    """

    name = "imagenet"
    input_shape = (3, SIDE, SIDE)

    def __init__(
        self,
        train: EncodedImages,
        test: EncodedImages,
        *,
        num_workers: int,
        pin_memory: bool,
        limit_seconds: float,
    ) -> None:
        strange = sorted(set(test.classes) - set(train.classes))
        if strange:
            raise UserError(f"--data imagenet: no training images of the test class {strange[0]}")
        self.num_classes = len(train.classes)
        self.train_images, self.test_images = train, test
        self.train_targets = train.labels
        numbers = {label: number for number, label in enumerate(train.classes)}
        self.test_targets = torch.tensor([numbers[label] for label in test.classes])[test.labels]
        self.num_test = len(self.test_targets)
        untested = sorted(set(range(self.num_classes)) - set(self.test_targets.tolist()))
        if untested:
            few = ", ".join(train.classes[label] for label in untested[:3])
            number = f"{len(untested)} of {self.num_classes} classes"
            self.notices = (f"--data imagenet: no test images of {number}, as {few}",)
        self.num_workers, self.limit_seconds = num_workers, limit_seconds
        self.pin_memory = pin_memory and torch.cuda.is_available()

    def on(self, device: torch.device) -> "ImageNet":
        """Start what starts workers: it imports meanwhile, and what lies there before training."""
        if self.num_workers:
            workers_context()
        return self

    def read(self, batches: Sequence[torch.Tensor], seeds: Sequence[int]) -> Batches:
        tasks = [(batch.numpy(), seed) for batch, seed in zip(batches, seeds, strict=True)]
        return self._decoded(Decoder(self.train_images, training=True), self.train_targets, tasks)

    def test_batches(self, part: int = 0, num_shares: int = 1) -> Batches:
        batches = share_batches(self.num_test, part, num_shares, TEST_BATCH_SIZE)
        tasks = [(batch.numpy(), None) for batch in batches]
        return self._decoded(Decoder(self.test_images, training=False), self.test_targets, tasks)

    def _decoded(self, decoder: Decoder, targets: torch.Tensor, tasks: Sequence[Task]) -> Batches:
        if not self.num_workers:
            made: Generator[Any, None, None] = (decoder(task) for task in tasks)
            killed: list[str] = []
        else:
            made = made_by_workers(decoder.shared, tasks, self.num_workers)
            killed = _watch(self.limit_seconds)
        try:
            with contextlib.closing(made):
                for (positions, _), inputs in zip(tasks, made, strict=True):
                    if isinstance(inputs, Exception):
                        raise inputs
                    batch = inputs.pin_memory() if self.pin_memory else inputs
                    yield batch, targets.index_select(0, torch.from_numpy(positions))
        except LoaderError as error:
            raise LoaderError(
                f"--num_workers {self.num_workers}: {'; '.join([*killed, error.reason])}; loader "
                "processes need memory, and in /dev/shm room for three batches each: give them "
                "more (docker run --shm-size), or lower --num_workers or --batch_size"
            ) from error


@functools.cache
def _watch(limit_seconds: float) -> list[str]:
    """Kill loader processes that stay stopped, from now on; the list says which were.

    Whoever waits for the batch, the start or the end of such a one waits for ever; that of a dead
    one is an error.
    """
    killed: list[str] = []

    def stopped() -> set[psutil.Process]:
        found = set()
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                is_loader = any("multiprocessing.forkserver" in word for word in process.cmdline())
                if is_loader and process.status() == psutil.STATUS_STOPPED:
                    found.add(process)
        return found

    def watch() -> None:
        before: set[psutil.Process] = set()
        # Twice in half the time limit: before another node has waited for this one for all of it.
        while True:
            time.sleep(max(limit_seconds / 4, 1.0))
            before, found = stopped(), before
            for process in before & found:
                killed.append(f"process {process.pid} was stopped, and is killed")
                process.kill()

    threading.Thread(target=watch, daemon=True).start()
    return killed


def load_imagenet(
    data_dir: str,
    *,
    use_lmdb_data: Annotated[bool, Option("ImageNet from LMDB")] = False,
    num_workers: Annotated[
        int, Option("data loading processes", aliases=("-j",), minimum=0, decides=False)
    ] = 2,
    pin_memory: Annotated[bool, Option("page-locked memory for batches", decides=False)] = True,
    time_limit_seconds: float = 300.0,
) -> ImageNet:
    """ImageNet (Russakovsky et al., arXiv 1409.0575): 1,281,167 images of 1,000 classes, and
    50,000 for testing. Any other classes and images will do.

    Read from DATA_DIR/imagenet/{train,val}/CLASS/*.JPEG, or from DATA_DIR/imagenet/{train,val}.lmdb
    as `python -m pcode.tools.to_lmdb` makes them.
    """
    folder = Path(data_dir, "imagenet")
    with naming_flags(f"--data imagenet --data_dir {data_dir}"):
        train, test = (
            LmdbImages(folder / f"{part}.lmdb") if use_lmdb_data else FolderImages(folder / part)
            for part in ("train", "val")
        )
    return ImageNet(
        train,
        test,
        num_workers=num_workers,
        pin_memory=pin_memory,
        limit_seconds=time_limit_seconds,
    )
