"""How fast augmented images come: a batch at a time beside torchvision's image at a time.

    python benchmarks/loading.py [--rounds N] [--output FILE.json]

50,000 images of 3 x 32 x 32, batches of 128, one thread, no worker processes. Crops from the
image with 4 zeros around it, mirror images, float32, normalised: CIFAR's usual augmentation.

- ours: a node's batches of an epoch, as a run takes them;
- v1, v2: samples as torchvision's CIFAR10 makes them, of the same images, with the transforms of
  either generation, through a DataLoader;
- copy: a plain copy of one batch of inputs, the least that memory asks for.

A round is some batches of each, in turn, so that all see the same machine. Its ratios divide two
times per image of the round; the figures are medians over the rounds. An epoch is all 50,000
images; of torchvision's ways it is reckoned from the batches of a round.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import v2

from harness import keep, spread
from pcode.datasets.base import Order, Split
from pcode.datasets.in_memory import image_dataset
from pcode.utils.devices import use_memory_well

NUM_IMAGES, BATCH_SIZE, PADDING = 50_000, 128, 4
# Batches of a round: about half a second each.
OURS, THEIRS, COPIES = NUM_IMAGES // BATCH_SIZE, 30, 1000
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Images(Dataset[tuple[torch.Tensor, int]]):
    """Samples made one at a time, as torchvision's CIFAR10 makes them."""

    def __init__(self, split: Split, transform: Any) -> None:
        self.data = np.ascontiguousarray(split.inputs.permute(0, 2, 3, 1).numpy())
        self.targets = split.targets.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


def pipelines() -> dict[str, Any]:
    """The transforms of either generation, as torchvision's references write them."""
    return {
        "v1": transforms.Compose(
            [
                transforms.RandomCrop(32, padding=PADDING),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, DEVIATION),
            ]
        ),
        "v2": v2.Compose(
            [
                v2.RandomCrop(32, padding=PADDING),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, DEVIATION),
            ]
        ),
    }


def ways() -> dict[str, Callable[[int], int]]:
    """What a round consists of: each takes the round's number and returns the images it made."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (NUM_IMAGES, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.randint(10, (NUM_IMAGES,), generator=generator))
    dataset = image_dataset("random", split, split, 10, PADDING)
    share = torch.arange(NUM_IMAGES)
    batch = torch.empty(BATCH_SIZE, 3, 32, 32)
    target = torch.empty_like(batch)

    def ours(number: int) -> int:
        batches = dataset.train_batches(share, OURS, BATCH_SIZE, Order(1, 0, number))
        return sum(len(inputs) for inputs, _ in batches)

    def theirs(transform: Any) -> Callable[[int], int]:
        source: DataLoader[Any] = DataLoader(
            Images(split, transform), batch_size=BATCH_SIZE, shuffle=True, num_workers=0
        )
        return lambda number: sum(len(inputs) for inputs, _ in islice(source, THEIRS))

    def copy(number: int) -> int:
        for _ in range(COPIES):
            target.copy_(batch)
        return COPIES * BATCH_SIZE

    return {
        "ours": ours,
        **{name: theirs(transform) for name, transform in pipelines().items()},
        "copy": copy,
    }


def measure(rounds: int) -> dict[str, list[float]]:
    """Seconds per image of every round of every way; two more rounds warm up."""
    everyone = ways()
    seconds: dict[str, list[float]] = {name: [] for name in everyone}
    for number in range(rounds + 2):
        for name, way in everyone.items():
            begin = time.perf_counter()
            count = way(number)
            if number > 1:
                seconds[name].append((time.perf_counter() - begin) / count)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    use_memory_well()
    seconds = measure(arguments.rounds)
    figures: dict[str, dict[str, Any]] = {}
    print("| way | images/s | µs per image | s per epoch | times ours | quartiles |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, values in seconds.items():
        ratio = spread([value / ours for value, ours in zip(values, seconds["ours"], strict=True)])
        figures[name] = {"seconds_per_image": values, "times_ours": ratio}
        median = spread(values)["median"]
        figures[name]["seconds_per_epoch"] = spread([NUM_IMAGES * value for value in values])
        print(
            f"| {name} | {1 / median:,.0f} | {1e6 * median:.2f} | {NUM_IMAGES * median:.3g} "
            f"| {ratio['median']:.3g} "
            f"| {ratio['lower_quartile']:.3g} to {ratio['upper_quartile']:.3g} |"
        )
    shape = {"images": NUM_IMAGES, "batch_size": BATCH_SIZE, "threads": 1}
    keep(arguments.output, {**shape, "torchvision": torchvision.__version__, "figures": figures})


if __name__ == "__main__":
    main()
