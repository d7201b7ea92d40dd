"""Data sets, how they are dealt to the nodes and in which batches they are read.

A new data set is one file with a loader and one line in DATASETS.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from pcode.datasets.base import Batch, Batches, Dataset, Loader
from pcode.datasets.digits import load_digits_dataset
from pcode.datasets.imagenet import load_imagenet
from pcode.datasets.libsvm import load_epsilon, load_rcv1
from pcode.datasets.partition import partition_indices, partition_scheme, smallest_share
from pcode.datasets.synthetic import load_synthetic
from pcode.datasets.text import TEXTS, load_text
from pcode.datasets.vision import SIZES, VISION, load_downsampled, load_vision
from pcode.utils.options import look_up, taken_by

__all__ = [
    "DATASETS",
    "Batch",
    "Batches",
    "Dataset",
    "Loader",
    "load_dataset",
    "loader",
    "partition_indices",
    "partition_scheme",
    "smallest_share",
]

DATASETS: dict[str, Loader] = {
    "digits": load_digits_dataset,
    **{name: partial(load_vision, name) for name in VISION},
    **{f"imagenet{size}": partial(load_downsampled, size) for size in SIZES},
    "synthetic": load_synthetic,
    "imagenet": load_imagenet,
    "epsilon": load_epsilon,
    "rcv1": load_rcv1,
    **{name: partial(load_text, name) for name in TEXTS},
}


def loader(name: str) -> Loader:
    """Return the loader of the data set of that name, parameters included."""
    parametric = [each for each, load in DATASETS.items() if taken_by(load, {"parameters": ""})]
    return look_up("data", name, DATASETS, parametric)


def load_dataset(name: str, flags: Mapping[str, Any]) -> Dataset:
    """Load the data set "NAME", or "NAME:PARAMETERS"; it takes those of all flags that it needs."""
    load = loader(name)
    return load(**taken_by(load, {**flags, "parameters": name.partition(":")[2]}))
