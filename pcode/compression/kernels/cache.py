"""Where compiled kernels are kept, so that only the first run on a machine compiles them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from numba import config

HERE = Path(__file__).parent


def _digest() -> str:
    """Of all kernels' sources.

    Numba's own check sees a function's file only, not the files of the functions that it calls.
    """
    digest = hashlib.sha256()
    for file in sorted(HERE.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


@cache
def folder() -> str | None:
    """A folder for these sources: beside them, else the user's cache; None: nothing can be kept."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for place in (HERE / "__pycache__", Path(home, "choco-sgd")):
        found = place / f"kernels-{_digest()}"
        try:
            found.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=found).close()
        except OSError:
            continue
        return str(found)
    return None


@contextmanager
def kept() -> Iterator[bool]:
    """What is decorated by Numba within is kept in `folder`, if the value is True.

    Numba asks for the folder when a function is decorated; elsewhere its setting stays the user's.
    """
    before, config.CACHE_DIR = config.CACHE_DIR, folder() or ""
    try:
        yield folder() is not None
    finally:
        config.CACHE_DIR = before
