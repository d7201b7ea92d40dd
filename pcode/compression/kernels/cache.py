"""Where compiled kernels are kept, so that a later run need not compile them."""

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


def _places() -> Iterator[Path]:
    """What the user has set for Numba, beside the sources, and the user's cache."""
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR).absolute()
    yield HERE / "__pycache__"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # "~" stays as it is for a user without a home.
    if os.path.isabs(home):
        yield Path(home, "choco-sgd")


@cache
def folder() -> str | None:
    """A folder for these sources, in the first place that can be written; None where none can."""
    for place in _places():
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
