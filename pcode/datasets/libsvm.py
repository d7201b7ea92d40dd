"""The convex problems of the literature, in LIBSVM's text format: epsilon and rcv1."""

from __future__ import annotations

import bz2
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch

from pcode.datasets.in_memory import InMemory
from pcode.datasets.kept_copy import kept_copy
from pcode.utils.errors import UserError
from pcode.utils.files import one_line

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from pcode.datasets.sparse import SparseVectors

EPSILON_FEATURES, RCV1_FEATURES = 2_000, 47_236
# As text; parsed at once.
CHUNK_BYTES = 1 << 26


def load_epsilon(data_dir: str) -> InMemory:
    """epsilon of the Pascal Large Scale Learning Challenge 2008: 400,000 vectors of 2,000 features
    for training and 100,000 for testing, two classes, each vector of length 1.

    Read from DATA_DIR/epsilon_normalized and epsilon_normalized.t, as the LIBSVM data page
    publishes them, also as .bz2. Parsing them takes minutes: the first run keeps what it has read
    beside them as float32, 3.2 GB and .8 GB, which the processes of a machine then share.

    Raises:
        UserError: a file is missing or is no such file.
    """
    train, test = (
        _dense("epsilon", _find("epsilon", data_dir, name), EPSILON_FEATURES)
        for name in ("epsilon_normalized", "epsilon_normalized.t")
    )
    return InMemory(
        "epsilon",
        train_inputs=train[0],
        train_targets=train[1],
        test_inputs=test[0],
        test_targets=test[1],
        num_classes=2,
    )


def load_rcv1(data_dir: str) -> SparseVectors:
    """rcv1.binary (Lewis et al., 2004): 20,242 vectors of 47,236 features for training and 677,399
    for testing, two classes, .16 % of the entries not 0.

    Read from DATA_DIR/rcv1_train.binary and rcv1_test.binary, as the LIBSVM data page
    publishes them, also as .bz2. The first run keeps what it has read beside them.

    Raises:
        UserError: a file is missing or is no such file.
    """
    from pcode.datasets.sparse import SparseVectors  # noqa: PLC0415  # scipy: a third of a second

    train, test = (
        _sparse("rcv1", _find("rcv1", data_dir, name), RCV1_FEATURES)
        for name in ("rcv1_train.binary", "rcv1_test.binary")
    )
    return SparseVectors(
        "rcv1",
        train_inputs=train[0],
        train_targets=train[1],
        test_inputs=test[0],
        test_targets=test[1],
        num_classes=2,
    )


def _find(data: str, data_dir: str, name: str) -> Path:
    for path in (Path(data_dir, name), Path(data_dir, f"{name}.bz2")):
        if os.path.isfile(path):
            return path
    raise UserError(
        f"--data {data}: {Path(data_dir, name)} is not there, nor with .bz2; fetch it from the "
        "LIBSVM data page (binary classification), or name another folder with --data_dir"
    )


def _chunks(path: Path, num_features: int) -> Iterator[csr_array]:
    """The rows of a file, float32, each with its class, 0 or 1, after its features.

    Raises:
        ValueError: a line is not as it should be, or there is none.
    """
    # Here, because it takes a second and few runs read such files.
    from scipy.sparse import csr_array, hstack  # noqa: PLC0415
    from sklearn.datasets import load_svmlight_file  # noqa: PLC0415

    empty = True
    with bz2.open(path) if path.suffix == ".bz2" else path.open("rb") as file:
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


def _dense(data: str, path: Path, num_features: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets. The inputs are a map of the kept copy: read as they are needed."""

    def make(file: BinaryIO) -> None:
        for chunk in _chunks(path, num_features):
            file.write(chunk.toarray().tobytes())

    layout = f"{sys.byteorder} float32, rows of {num_features} features and the class"
    with _refusing(data, path), kept_copy(path, layout, make) as (file, num_bytes):
        # "c": what would be written stays in this process.
        rows = num_bytes // (4 * (num_features + 1))
        entries: Any = np.memmap(file, np.float32, "c", file.tell(), (rows, num_features + 1))
    table = torch.from_numpy(entries)
    return table[:, :-1], table[:, -1].to(torch.int64)


def _sparse(data: str, path: Path, num_features: int) -> tuple[csr_array, torch.Tensor]:
    """Inputs and targets."""
    from scipy.sparse import csr_array, vstack  # noqa: PLC0415

    def make(file: BinaryIO) -> None:
        table = vstack(list(_chunks(path, num_features)), format="csr")
        for array in (table.data, table.indices, table.indptr):
            np.save(file, array, allow_pickle=False)

    layout = f".npy of entries, columns and row ends, {num_features} features and the class"
    with _refusing(data, path), kept_copy(path, layout, make) as (file, _):
        entries, columns, ends = (np.load(file, allow_pickle=False) for _ in range(3))
    table = csr_array((entries, columns, ends), shape=(len(ends) - 1, num_features + 1))
    targets = table[:, [num_features]].toarray()[:, 0]
    return csr_array(table[:, :num_features]), torch.from_numpy(targets).to(torch.int64)


@contextmanager
def _refusing(data: str, path: Path) -> Iterator[None]:
    """What a damaged file makes its readers raise becomes a UserError that names it."""
    try:
        yield
    except (OSError, EOFError, ValueError, OverflowError) as error:
        reason = one_line(error)
        raise UserError(f"--data {data}: {path}: {reason}") from None
