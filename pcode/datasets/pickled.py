"""Pickled arrays, opened without running what a file says."""

import pickle
from pathlib import Path
from typing import Any

# What a pickled array is made with, by NumPy 1 and 2, in protocols up to 5.
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
}


def _encode(text: str, encoding: str) -> bytes:
    """Decode bytes as Python 3 writes them in protocols 0 to 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes as {encoding}")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 renamed the package; 1.26 knows both names.
        module = module.replace("numpy.core.", "numpy._core.")
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}; only arrays are opened")
        return super().find_class(module, name)


def load_arrays(path: Path) -> dict[str, Any]:
    """Load a pickled dict of NumPy arrays, lists, numbers and text.

    A pickle may name any function and have it called, and a data file comes from somewhere else:
    here it may name those alone that make arrays. Files written by Python 2 are read too; their
    strings are taken as latin-1.

    Raises:
        Exception: of nearly any kind where the file is damaged; pickle.UnpicklingError where it
            asks for anything else or holds no dict.
    """
    with path.open("rb") as file:
        content = _ArraysOnly(file, encoding="latin1").load()
    if not isinstance(content, dict):
        raise pickle.UnpicklingError(f"it holds a {type(content).__name__}, not a dict")
    return content
