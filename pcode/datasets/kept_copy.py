"""What is made of a file once and kept beside it."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def kept_copy(source: Path, make: Callable[[BinaryIO], None]) -> Iterator[BinaryIO]:
    """The file that `make` writes of `source`, opened for reading.

    It is kept as SOURCE.SIZE-TIME.kept, with the size and the time of modification of the source,
    so that another source gets another copy. Of several processes that ask at once, one makes it
    and the others wait (a lock on SOURCE.lock). It appears when it is whole. Where the folder
    cannot be written to, each process makes a temporary file of its own.

    Raises:
        OSError: a file cannot be read or written.
    """
    status = source.stat()
    kept = source.with_name(f"{source.name}.{status.st_size}-{status.st_mtime_ns}.kept")
    if not kept.exists() and not os.access(source.parent, os.W_OK):
        with tempfile.TemporaryFile() as file:
            make(file)
            file.seek(0)
            yield file
        return
    if not kept.exists():
        with source.with_name(f"{source.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                _make(kept, make)
    with kept.open("rb") as file:
        yield file


def _make(kept: Path, make: Callable[[BinaryIO], None]) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{kept.name}.", dir=kept.parent)
    try:
        with open(handle, "wb") as file:
            make(file)
        os.chmod(temporary, 0o644)  # mkstemp's are for their owner alone
        os.replace(temporary, kept)
    finally:
        Path(temporary).unlink(missing_ok=True)
