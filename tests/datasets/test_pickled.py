"""Pickles of arrays are opened, and nothing else."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcode.datasets.pickled import load_arrays
from tests.datasets.published import python2_pickle

DATA = np.random.default_rng(1).integers(256, size=(5, 12), dtype=np.uint8)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_python_3(tmp_path: Path, protocol: int) -> None:
    content = {
        "data": DATA,
        "labels": [1, 2, 3],
        "mean": DATA.mean(0),
        "names": ["a"],
        "raw": b"\xff",
    }
    (tmp_path / "file").write_bytes(pickle.dumps(content, protocol=protocol))
    read = load_arrays(tmp_path / "file")
    assert list(read) == list(content)
    np.testing.assert_array_equal(read["data"], DATA)
    np.testing.assert_array_equal(read["mean"], DATA.mean(0))
    assert read["data"].dtype == np.uint8
    assert (read["labels"], read["names"], read["raw"]) == ([1, 2, 3], ["a"], b"\xff")


@pytest.mark.parametrize("protocol", range(6))
def test_numbers_of_numpy_and_keys_of_bytes(tmp_path: Path, protocol: int) -> None:
    content = {b"labels": list(np.arange(3)), b"data": DATA, "mean": np.float32(0.5)}
    (tmp_path / "file").write_bytes(pickle.dumps(content, protocol=protocol))
    read = load_arrays(tmp_path / "file")
    assert list(read) == ["labels", "data", "mean"]
    assert (read["labels"], read["mean"]) == ([0, 1, 2], 0.5)


def test_files_of_python_2(tmp_path: Path) -> None:
    content = python2_pickle("fine_labels", DATA, [7, 0, 99, 4, 5])
    # The files are those that Python itself reads in this way.
    expected = pickle.loads(content, encoding="latin1")
    (tmp_path / "file").write_bytes(content)
    read = load_arrays(tmp_path / "file")
    assert list(read) == list(expected) == ["fine_labels", "data"]
    assert read["fine_labels"] == expected["fine_labels"] == [7, 0, 99, 4, 5]
    np.testing.assert_array_equal(read["data"], DATA)
    np.testing.assert_array_equal(expected["data"], DATA)


class Call:
    """Pickled, it is a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("function", [eval, getattr, np.load, np.fromfile, Path])
def test_no_other_function_is_called(tmp_path: Path, function: Any) -> None:
    (tmp_path / "file").write_bytes(pickle.dumps({"data": Call(function, "1 + 1")}))
    with pytest.raises(pickle.UnpicklingError, match="only arrays are opened"):
        load_arrays(tmp_path / "file")


def test_bytes_are_latin_1_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"c_codecs\nencode\n(Vtext\nVzlib\ntR.")
    with pytest.raises(pickle.UnpicklingError, match="bytes as zlib"):
        load_arrays(tmp_path / "file")


def test_anything_but_a_dict_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(pickle.dumps(DATA))
    with pytest.raises(pickle.UnpicklingError, match="a ndarray, not a dict"):
        load_arrays(tmp_path / "file")
