"""Compiling kernels, and where they are cached, so that a later run need not compile them."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import config, njit

HERE = Path(__file__).parent
PACKAGE = HERE.parents[2]
# What kernels, and the constants in them, are made of.
SOURCES = ("compression/**/*.py", "optim/sgd_update.py", "optim/fused.py", "optim/low_rank/*.py")

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function, **options: Any) -> Function:
    """Compile with Numba at the first call; the kernel runs without the interpreter lock.

    It is cached for later runs, which takes a function that encloses nothing.

    Args:
        options: of `njit`.
    """
    # Numba asks for these when a function is decorated; elsewhere its settings are the user's.
    # NUMBA_DISABLE_JIT is for debugging other code: without a compiler kernels cannot run.
    before = config.CACHE_DIR, config.DISABLE_JIT
    config.CACHE_DIR, config.DISABLE_JIT = folder() or "", 0
    try:
        is_cached = folder() is not None
        compiled = njit(nogil=True, error_model="numpy", cache=is_cached, **options)(function)
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


def _not_to_trust(folder: int) -> str:
    """Say what in an open folder another user than this one or root could have written, if any.

    Numba unpickles what lies there, and a pickle may run anything.
    """
    is_closed = not os.fstat(folder).st_mode & 0o077  # then nobody comes to what is in it
    for _, folders, files, inside in os.fwalk(dir_fd=folder):
        for name in (".", *folders, *files):
            try:
                status = os.stat(name, dir_fd=inside, follow_symlinks=False)
            except FileNotFoundError:  # what another process of this run has renamed meanwhile
                continue
            if status.st_uid not in (0, os.geteuid()):
                return f"{name} belongs to user {status.st_uid}"
            if status.st_mode & 0o022 and not is_closed:
                return f"others may write to {name} ({stat.filemode(status.st_mode)})"
    return ""


@cache
def _find() -> tuple[str | None, tuple[str, ...]]:
    notices: list[str] = []
    for place in _places():
        found = place / f"kernels-{_digest()}"
        try:
            place.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                found.mkdir(0o700)
            # Open as long as this process lives: what was judged is what is used, also where others
            # may rename a folder above it.
            opened = os.open(found, os.O_RDONLY | os.O_DIRECTORY)
            path = f"/proc/self/fd/{opened}"
            if not os.path.exists(path):  # a system without Linux's /proc
                path = str(found)
            tempfile.TemporaryFile(dir=path).close()
        except OSError:
            continue
        if not (reason := _not_to_trust(opened)):
            return path, tuple(notices)
        notices.append(f"compiled kernels in {found} are not used: {reason}; remove that folder")
    return None, tuple(notices)


def folder() -> str | None:
    """Make a folder for these sources in the first place that can be written; None: none can.

    Folders are skipped in which others could have put something; new ones are the user's alone.
    """
    return _find()[0]


def notices() -> tuple[str, ...]:
    """Return what the user should know of folders that were skipped, a line each."""
    return _find()[1]
