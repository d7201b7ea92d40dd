"""The convex problems of the literature, in LIBSVM's text format: epsilon and rcv1."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch

from pcode.datasets.base import TEST_BATCH_SIZE, Batches, Dataset, Split, share_batches
from pcode.datasets.data_files import cached_copy
from pcode.datasets.in_memory import InMemory
from pcode.utils.errors import UserError
from pcode.utils.files import PACKED, beside, one_line, stored, unpacked

# scipy and scikit-learn are imported where they are needed: that takes a second and few runs read
# such files.
if TYPE_CHECKING:
    from scipy.sparse import csr_array

    SparseSplit = tuple[csr_array, torch.Tensor]

EPSILON_FEATURES, RCV1_FEATURES = 2_000, 47_236
# As text; parsed at once.
CHUNK_BYTES = 1 << 26


def load_epsilon(data_dir: str) -> InMemory:
    """epsilon of the Pascal Large Scale Learning Challenge 2008: 400,000 vectors of 2,000 features
    for training and 100,000 for testing, two classes, each vector of length 1.

    Read from DATA_DIR/epsilon_normalized and epsilon_normalized.t, as the LIBSVM data page
    publishes them, compressed or not. Parsing them takes minutes: the first run caches what it has
    read beside them as float32, 3.2 GB and .8 GB, which the processes of a machine then share.
    """
    train, test = (
        _dense("epsilon", Path(data_dir, name), EPSILON_FEATURES)
        for name in ("epsilon_normalized", "epsilon_normalized.t")
    )
    return InMemory("epsilon", train, test, num_classes=2)


def load_rcv1(data_dir: str) -> Rcv1:
    """rcv1.binary (Lewis et al., 2004): 20,242 vectors of 47,236 features for training and 677,399
    for testing, two classes, .16 % of the entries not 0.

    Read from DATA_DIR/rcv1_train.binary and rcv1_test.binary, as the LIBSVM data page
    publishes them, compressed or not. The first run caches what it has read beside them.
    """
    train, test = (
        _sparse("rcv1", Path(data_dir, name), RCV1_FEATURES)
        for name in ("rcv1_train.binary", "rcv1_test.binary")
    )
    return Rcv1(train, test)


class Rcv1(Dataset):
    """Vectors stored as sparse rows, which a linear layer takes a batch at a time.

    Batches for training are made dense, which costs a step of 32 vectors about a millisecond. Those
    for testing, of which rcv1 has 1,324, stay sparse, in torch's coordinate format, which linear
    layers take: 512 vectors of 47,236 features of which .16 % are not 0 go through one in 1 ms
    instead of 26 ms (one thread).
    """

    name, num_classes = "rcv1", 2

    def __init__(self, train: SparseSplit, test: SparseSplit) -> None:
        self.train_inputs, self.train_targets = train
        self.test_inputs, self.test_targets = test
        self.input_shape = (self.train_inputs.shape[1],)
        self.num_test = len(self.test_targets)

    def read(self, batches: Sequence[torch.Tensor], seeds: Sequence[int]) -> Batches:
        for batch in batches:
            rows = self.train_inputs[batch.numpy()]
            yield torch.from_numpy(rows.toarray()), self.train_targets[batch]

    def test_batches(self, part: int = 0, num_shares: int = 1) -> Batches:
        for batch in share_batches(self.num_test, part, num_shares, TEST_BATCH_SIZE):
            rows = self.test_inputs[batch.numpy()].tocoo()
            inputs = torch.sparse_coo_tensor(
                torch.from_numpy(np.stack([rows.row, rows.col])),
                torch.from_numpy(rows.data),
                rows.shape,
                # They come from a valid matrix, in order and without repeats.
                check_invariants=False,
                is_coalesced=True,
            )
            yield inputs, self.test_targets[batch]


def _chunks(path: Path, num_features: int) -> Iterator[csr_array]:
    """Parse the rows of a file, float32, each with its class, 0 or 1, after its features."""
    from scipy.sparse import csr_array, hstack  # noqa: PLC0415
    from sklearn.datasets import load_svmlight_file  # noqa: PLC0415

    empty = True
    with unpacked(path) as file:
        while lines := file.readlines(CHUNK_BYTES):
            inputs, labels = load_svmlight_file(
                io.BytesIO(b"".join(lines)),
                n_features=num_features,
                dtype=np.float32,
                zero_based=False,
            )
            if not np.isin(labels, (-1, 1)).all():
                raise ValueError("a label is neither -1 nor 1")
            if not np.isfinite(inputs.data).all():
                raise ValueError("a feature is not finite")
            classes = csr_array((labels[:, None] > 0).astype(np.float32))
            yield csr_array(hstack([inputs, classes], format="csr"))
            empty = empty and not len(labels)  # a chunk may hold comments alone
    if empty:
        raise ValueError("holds no sample")


def _dense(data: str, path: Path, num_features: int) -> Split:
    """Map the cached copy: inputs are read from the disk as they are needed."""

    def make(source: Path, file: BinaryIO) -> None:
        for chunk in _chunks(source, num_features):
            file.write(chunk.toarray().tobytes())

    layout = f"{sys.byteorder} float32, rows of {num_features} features and the class"
    with _cached(data, path, layout, make) as (file, num_bytes):
        # "c": what would be written stays in this process.
        rows = num_bytes // (4 * (num_features + 1))
        entries: Any = np.memmap(file, np.float32, "c", file.tell(), (rows, num_features + 1))
        table = torch.from_numpy(entries)
        return Split(table[:, :-1], _classes(table[:, -1]))


def _sparse(data: str, path: Path, num_features: int) -> SparseSplit:
    """Read the inputs and targets of the cached copy."""
    from scipy.sparse import csr_array, vstack  # noqa: PLC0415

    def make(source: Path, file: BinaryIO) -> None:
        table = vstack(list(_chunks(source, num_features)), format="csr")
        for array in (table.data, table.indices, table.indptr):
            np.save(file, array, allow_pickle=False)

    layout = f".npy of entries, columns and row ends, {num_features} features and the class"
    with _cached(data, path, layout, make) as (file, _):
        entries, columns, ends = (np.load(file, allow_pickle=False) for _ in range(3))
        if entries.dtype != np.float32:
            raise ValueError(f"its copy holds {entries.dtype}")
        table = csr_array((entries, columns, ends), shape=(len(ends) - 1, num_features + 1))
        # It may come from somewhere else: other places than there are would be written to.
        table.check_format(full_check=True)
        targets = table[:, [num_features]].toarray()[:, 0]
        return csr_array(table[:, :num_features]), _classes(torch.from_numpy(targets))


def _classes(column: torch.Tensor) -> torch.Tensor:
    """Return the classes of a cached copy, which may come from somewhere else."""
    if not ((column == 0) | (column == 1)).all():
        raise ValueError("its copy has other classes than 0 and 1")
    return column.to(torch.int64)


@contextmanager
def _cached(
    data: str, path: Path, layout: str, make: Callable[[Path, BinaryIO], None]
) -> Iterator[tuple[BinaryIO, int]]:
    """Open the cached copy of a file, compressed or not; a UserError names what is damaged."""
    source = stored(path)
    if not os.path.isfile(source):
        raise UserError(
            f"--data {data}: {path} is not there, nor with {' or '.join(PACKED)}{beside(path)}; "
            "fetch it from the LIBSVM data page (binary classification), or name another folder "
            "with --data_dir"
        )
    try:
        with cached_copy(source, layout, partial(make, source)) as copy:
            yield copy
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"--data {data}: {source}: {one_line(error)}") from None
