"""Pickled dicts of NumPy arrays, from whoever made them: nothing that a file names is called."""

import os
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

Array = np.ndarray[Any, Any]
Load = Callable[[Any], None]

# Booleans, integers, floats, complex numbers and text; neither objects nor structures.
_PLAIN = re.compile(r"[biufc]\d{1,2}|[SU]\d{1,9}", re.ASCII)
# What is hashed, of what lies on the stack, by opcodes that do so.
_HASHED = {
    pickle.SETITEM: slice(-2, None, 2),
    pickle.SETITEMS: slice(None, None, 2),
    pickle.DICT: slice(None, None, 2),
}
# Of sets, which no data holds: a byte of the file would take hundreds of memory.
_REFUSED = {pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET}


@dataclass
class _Kind:
    """A plain dtype; pickles give its byte order after they have made it."""

    dtype: np.dtype[Any]


def _checking_keys(load: Load, hashed: slice) -> Load:
    def checked(unpickler: Any) -> None:
        # Nested a million times, they would be more than the stack of C's functions holds.
        if any(isinstance(key, tuple) for key in unpickler.stack[hashed]):
            raise pickle.UnpicklingError("a key is a tuple")
        load(unpickler)

    return checked


# Not pickle.Unpickler, which is written in C: nine bytes make it take gigabytes for its memo, and
# what it builds and hashes cannot be checked.
class _ArraysOnly(pickle._Unpickler):
    """Makes arrays with functions of its own, from bytes alone; no NumPy object is called or built.

    What pickles of NumPy 1 and 2 name, in protocols up to 5, is replaced by these functions.
    """

    stack: list[Any]
    read: Callable[[int], bytes]

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")
        # Bytes of arrays that may still be made: twice the file's, for they may be encoded first.
        self._left = 2 * os.fstat(file.fileno()).st_size

    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 renamed the package.
        module = module.replace("numpy.core.", "numpy._core.")
        makers = {
            "_codecs.encode": self._encode,
            "numpy.ndarray": self._ndarray,
            "numpy.dtype": self._dtype,
            "numpy._core.multiarray._reconstruct": self._reconstruct,
            "numpy._core.multiarray.scalar": self._scalar,
            "numpy._core.numeric._frombuffer": self._frombuffer,
        }
        if (asked := f"{module}.{name}") not in makers:
            raise pickle.UnpicklingError(f"it asks for {asked}; only arrays are opened")
        return makers[asked]

    def _bytes(self, data: str | bytes | bytearray) -> bytes:
        """Return bytes, which Python 2 pickles as text; as many as the file holds, all together."""
        self._left -= len(data)
        if self._left < 0 or not isinstance(data, str | bytes | bytearray):
            raise pickle.UnpicklingError("its arrays hold more than the file, or no bytes")
        return data.encode("latin1") if isinstance(data, str) else bytes(data)

    def _encode(self, text: str, encoding: str) -> bytes:
        """Decode bytes as Python 3 writes them in protocols 0 to 2."""
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes as {encoding}")
        return self._bytes(text)

    def _ndarray(self, *_: Any) -> None:
        """Stand for the type, which pickles name and do not call."""
        raise pickle.UnpicklingError("it calls numpy.ndarray; only arrays are opened")

    def _dtype(self, name: str, *_: Any) -> _Kind:
        if not _PLAIN.fullmatch(name):
            raise pickle.UnpicklingError(f"an array of {name}; only plain ones are opened")
        return _Kind(np.dtype(name))

    def _reconstruct(self, *_: Any) -> Array:
        """Return an empty array, as pickles do before they tell what it holds."""
        return np.empty(0, np.uint8)

    def _scalar(self, kind: _Kind, data: str | bytes) -> Any:
        return np.frombuffer(self._bytes(data), kind.dtype, count=1)[0]

    def _frombuffer(self, data: Any, kind: _Kind, shape: Any, order: Any, axes: Any = None) -> Any:
        array: Array = np.frombuffer(data, kind.dtype)
        if axes is None:
            return array.reshape(shape, order=order)
        return array.reshape(shape).transpose(axes)

    def _build(self) -> None:
        """Give a dtype its byte order, or an array what it holds."""
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, _Kind):
            _, order, *structure = state
            if structure[:3] != [None] * 3:
                raise pickle.UnpicklingError("an array of structures; only plain ones are opened")
            made.dtype = made.dtype.newbyteorder(order)
        # Once: a view of what it held would be left without its memory.
        elif isinstance(made, np.ndarray) and not made.size:
            *_, shape, kind, by_columns, data = state
            content = self._bytes(data)
            whole: Array = np.frombuffer(content, kind.dtype)
            whole = whole.reshape(shape, order="F" if by_columns else "C")
            holding: Any = (1, whole.shape, whole.dtype, bool(by_columns), content)
            made.__setstate__(holding)
        else:
            raise pickle.UnpicklingError("it builds something else than one array")

    def _read_bytearray(self) -> None:
        """Read what there is: pickle makes room for as much as the file says."""
        self.stack.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    dispatch: ClassVar[dict[int, Load]] = {
        **pickle._Unpickler.dispatch,
        **{
            opcode[0]: _checking_keys(pickle._Unpickler.dispatch[opcode[0]], hashed)
            for opcode, hashed in _HASHED.items()
        },
        pickle.BUILD[0]: _build,
        pickle.BYTEARRAY8[0]: _read_bytearray,
    }
    for _opcode in _REFUSED:
        del dispatch[_opcode[0]]


def as_array(value: Any, most_entries: int) -> Array:
    """Return an array as it is, or make one of lists of arrays or numbers.

    Raises:
        ValueError: they hold something else, or more than so many entries: lists may hold others
            again and again, which takes a file few bytes.
    """
    left = most_entries

    def check(part: Any) -> None:
        nonlocal left
        left -= max(1, part.size) if isinstance(part, np.ndarray) else 1
        if left < 0:
            raise ValueError("its lists repeat one another")
        if isinstance(part, list | tuple):
            for each in part:
                check(each)
        elif not isinstance(part, int | float | np.number | np.ndarray):
            raise ValueError(f"it holds a {type(part).__name__} among numbers")

    if not isinstance(value, np.ndarray):
        check(value)
    return np.asarray(value)


def load_arrays(path: Path) -> dict[str, Any]:
    """Load a pickled dict of NumPy arrays, lists, numbers and text.

    A pickle may name any function and have it called, and a data file comes from somewhere else:
    here it may name those alone that make arrays of numbers or text, and is a
    pickle.UnpicklingError where it names another or holds no dict. Damaged ones raise nearly
    anything. Files written by Python 2 are read too; their strings are taken as latin-1, and so are
    keys that are bytes.
    """
    with path.open("rb") as file:
        try:
            content = _ArraysOnly(file).load()
        except KeyError as error:
            raise pickle.UnpicklingError(f"{error} is no opcode") from None
    if not isinstance(content, dict):
        raise pickle.UnpicklingError(f"it holds a {type(content).__name__}, not a dict")
    keys = (key.decode("latin1") if isinstance(key, bytes) else key for key in content)
    return dict(zip(keys, content.values(), strict=True))
