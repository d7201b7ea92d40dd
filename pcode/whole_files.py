"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# What an interrupted writer leaves begins with it.
TEMPORARY = ".tmp-"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends well.

    It lies on the disk by then, and so does its name. What a killed process leaves is
    `.tmp-NAME.XXXXXXXX` in the same folder.

    Raises:
        OSError: it cannot be written; what `path` was it still is.
    """
    handle, temporary = tempfile.mkstemp(prefix=f"{TEMPORARY}{path.name}.", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's are for their owner alone
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
