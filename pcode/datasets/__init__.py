"""Data sets, how they are dealt to the nodes and in which batches they are read.

A new data set is one file with a loader and one line in DATASETS.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from pcode.datasets.base import Batch, Batches, Dataset, Source
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
    "Source",
    "data_source",
    "load_dataset",
    "partition_indices",
    "partition_scheme",
    "smallest_share",
]

DATASETS: dict[str, Source] = {
    "digits": Source(load_digits_dataset),
    **{name: Source(partial(load_vision, name)) for name in VISION},
    **{f"imagenet{size}": Source(partial(load_downsampled, size)) for size in SIZES},
    "synthetic": Source(load_synthetic, parametric=True),
    "imagenet": Source(load_imagenet),
    "epsilon": Source(load_epsilon),
    "rcv1": Source(load_rcv1),
    **{name: Source(partial(load_text, name)) for name in TEXTS},
}


def data_source(name: str) -> Source:
    """Return the source of the data set of that name, parameters included."""
    return look_up("data", name, DATASETS)


def load_dataset(name: str, flags: Mapping[str, Any]) -> Dataset:
    """Load the data set "NAME", or "NAME:PARAMETERS"; it takes those of all flags that it needs."""
    source = data_source(name)
    taken = taken_by(source.load, flags)
    if source.parametric:
        taken["parameters"] = name.partition(":")[2]
    return source.load(**taken)
