"""Compiling kernels, and where they are cached, so that a later run need not compile them."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import config, njit

HERE = Path(__file__).parent
PACKAGE = HERE.parents[2]
# What kernels, and the constants in them, are made of.
SOURCES = ("compression/**/*.py", "optim/sgd_update.py", "optim/fused.py")

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile with Numba at the first call; the kernel runs without the interpreter lock.

    It is cached for later runs, which takes a function that encloses nothing.
    """
    # Numba asks for these when a function is decorated; elsewhere its settings are the user's.
    # NUMBA_DISABLE_JIT is for debugging other code: without a compiler kernels cannot run.
    before = config.CACHE_DIR, config.DISABLE_JIT
    config.CACHE_DIR, config.DISABLE_JIT = folder() or "", 0
    try:
        compiled = njit(nogil=True, error_model="numpy", cache=folder() is not None)(function)
    finally:
        config.CACHE_DIR, config.DISABLE_JIT = before
    return cast(Function, compiled)


def _digest() -> str:
    """Return that of all kernels' sources.

    Numba's own check sees a function's file only, not the files of the functions that it calls.
    """
    digest = hashlib.sha256()
    for pattern in SOURCES:
        for file in sorted(PACKAGE.glob(pattern)):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _places() -> Iterator[Path]:
    """Yield what the user has set for Numba, a place beside the sources, and the user's cache."""
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR).absolute()
    yield HERE / "__pycache__"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # "~" stays as it is for a user without a home.
    if os.path.isabs(home):
        yield Path(home, "choco-sgd")


@cache
def folder() -> str | None:
    """Make a folder for these sources in the first place that can be written; None: none can."""
    for place in _places():
        found = place / f"kernels-{_digest()}"
        try:
            found.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=found).close()
        except OSError:
            continue
        return str(found)
    return None
