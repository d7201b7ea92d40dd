"""Pickles of arrays are opened, and nothing else."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcode.datasets.pickled import as_array, load_arrays
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
    """Pickled, it is a call of a function with arguments, and perhaps a state for the result."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("function", [eval, getattr, np.load, np.fromfile, Path])
def test_no_other_function_is_called(tmp_path: Path, function: Any) -> None:
    (tmp_path / "file").write_bytes(pickle.dumps({"data": Call(function, ("1 + 1",))}))
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


def reconstructed(*state: Any) -> Call:
    """An array as NumPy pickles it, with another state."""
    call: Any = DATA.__reduce__()
    return Call(*call[:2], (1, *state))


def kind(*state: Any) -> Call:
    """A dtype as NumPy pickles it, with another state."""
    return Call(np.dtype, ("u1", False, True), state)


BYTE, OBJECT = np.dtype("u1"), np.dtype(object)
SOME = bytes(1 << 20)
DEEP = b")" + b"\x85" * 200_000
FORGED = {
    # Their bytes would be taken for addresses of objects.
    "objects in a buffer": Call(np.ndarray, ((2,), OBJECT, bytes(range(16)))),
    "a buffer": Call(np.ndarray, ((2,), BYTE, b"ab")),
    "objects in bytes": reconstructed((2,), OBJECT, False, bytes(range(16))),
    "objects": np.array([None, "a"], dtype=object),
    "a structure of objects": np.zeros(2, [("a", object)]),
    "a structure by name": Call(np.dtype, ("i4,O", False, True)),
    "a structure by state": kind(3, "|", None, ("a",), {"a": (OBJECT, 0)}, 8, 8, 63),
    "arrays in an array": kind(3, "|", (OBJECT, (2,)), None, None, 16, 8, 63),
    "fewer bytes": reconstructed((3,), BYTE, False, b"ab"),
    "more bytes": reconstructed((1,), BYTE, False, b"ab"),
    "negative lengths": reconstructed((-1, -2), BYTE, False, b"ab"),
    "huge lengths": reconstructed((2**62, 4), BYTE, False, b"ab"),
    "a list": reconstructed((2,), BYTE, False, [1, 2]),
    "a number of bytes": reconstructed((1 << 33,), BYTE, False, 1 << 33),
    "a dtype by name": reconstructed((2,), "O", False, b"ab"),
    "no state": reconstructed(),
    "the same bytes again": [reconstructed((1 << 20,), BYTE, False, SOME) for _ in range(3)],
}
FORGED_BYTES = {
    "an array built twice": b"cnumpy.core.multiarray\n_reconstruct\n)R"
    + 2 * (b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02u1\x85R\x89U\x02abtb"),
    "a function's attributes": b"cnumpy\ndtype\n}U\x01aNsb.",
    "a deep key": b"}" + DEEP + b"Ns.",
    "a deep key of several": b"}(" + DEEP + b"Nu.",
    "a deep key of protocol 0": b"(" + DEEP + b"Nd.",
    "a deep entry of a set": b"\x8f(" + DEEP + b"\x90.",
    "a deep entry of a constant set": b"(" + DEEP + b"\x91.",
    "a set": b"}U\x01a\x8fs.",
    "a constant set": b"}U\x01a(\x91s.",
    # Gigabytes, if the file is believed.
    "a huge memo": b")r\xff\xff\xff\x07.",
    "huge bytes": b"\x96" + struct.pack("<Q", 1 << 33) + b"abc.",
}
REFUSED = """
import resource, sys
from pathlib import Path
from pcode.datasets.pickled import load_arrays

def most_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

before = most_bytes()
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        load_arrays(path)
    except Exception as error:
        print(path.name, flush=True)
print(most_bytes() - before < 1 << 29)
"""


def test_forged_files_neither_crash_nor_take_memory(tmp_path: Path) -> None:
    for name, forged in FORGED.items():
        (tmp_path / name).write_bytes(pickle.dumps({"data": forged}))
    for name, content in FORGED_BYTES.items():
        (tmp_path / name).write_bytes(content)
    # In another process, which may not survive it.
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [*sorted(FORGED | FORGED_BYTES), "True"]


@pytest.mark.parametrize("empty", [True, False])
def test_lists_that_hold_others_again_and_again(empty: bool) -> None:
    lists: list[Any] = [] if empty else [0] * 50
    for _ in range(8):
        lists = [lists] * 50
    with pytest.raises(ValueError, match="repeat one another"):
        as_array(lists, 10_000)


def test_empty_arrays_again_and_again() -> None:
    with pytest.raises(ValueError, match="repeat one another"):
        as_array([[np.empty(0)] * 200] * 200, 10_000)


@pytest.mark.parametrize("words", [["a"] * 1000 + ["b" * 10_000], "word", [{}], [None]])
def test_what_is_no_number(words: Any) -> None:
    with pytest.raises(ValueError, match="among numbers"):
        as_array(words, 10_000)


HONEST = [
    python2_pickle("labels", DATA, [7, 0, 9, 4, 5]),
    *(pickle.dumps({"data": DATA, "labels": [1], "n": np.int8(1)}, each) for each in range(6)),
]


@given(st.data())
def test_any_bytes_are_read_or_refused(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(HONEST)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    with TemporaryDirectory() as folder:
        file = Path(folder, "file")
        file.write_bytes(content)
        with suppress(Exception):
            for value in load_arrays(file).values():
                repr(value)
