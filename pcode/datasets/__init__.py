"""Data sets, how they are dealt to the nodes and in which batches they are read.

A new data set is one file with a loader and one line in DATASETS.
"""

from __future__ import annotations

from collections.abc import Callable

from pcode.datasets.base import Dataset
from pcode.datasets.batches import batches_per_epoch, epoch_batches
from pcode.datasets.digits import load_digits_dataset
from pcode.datasets.partition import partition_indices
from pcode.registry import look_up

__all__ = [
    "DATASETS",
    "Dataset",
    "batches_per_epoch",
    "epoch_batches",
    "load_dataset",
    "partition_indices",
]

DATASETS: dict[str, Callable[[str], Dataset]] = {"digits": load_digits_dataset}
PLANNED = (
    "cifar10",
    "cifar100",
    "mnist",
    "svhn",
    "stl10",
    "imagenet",
    "imagenet8",
    "imagenet16",
    "imagenet32",
    "imagenet64",
    "epsilon",
    "rcv1",
    "wikitext2",
    "ptb",
    "synthetic",
)


def load_dataset(name: str, data_dir: str) -> Dataset:
    """The data set of that name; `data_dir` is where downloaded data lie.

    Raises:
        UserError: the name is unknown or not built yet.
    """
    return look_up("data", name, DATASETS, PLANNED)(data_dir)
