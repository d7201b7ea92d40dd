"""The step that each rank on this machine is in, for its launcher: the killed cannot say it."""

import mmap
import os
import sys
from contextlib import suppress
from pathlib import Path

# The folder in which a launcher wants to find it.
VARIABLE = "PCODE_STEPS"
_BYTES = 8
_NO_STEP = b"\xff" * _BYTES


class StepMark:
    """Where a rank writes its step: eight bytes of memory that outlive it; no call, no disk."""

    def __init__(self, rank: int) -> None:
        self._number: memoryview | None = None
        folder = os.environ.get(VARIABLE)
        if folder is None:
            return
        # Other hosts' ranks may inherit the variable (Slurm hands everything on), not the folder;
        # and no run is to fail for a mark.
        with suppress(OSError):
            file = _file(Path(folder), rank)
            file.write_bytes(_NO_STEP)
            with file.open("r+b") as opened:
                self._number = memoryview(mmap.mmap(opened.fileno(), _BYTES)).cast("q")

    def __call__(self, step: int) -> None:
        """Mark that the rank has made so many steps, and comes to the next."""
        if self._number is not None:
            self._number[0] = step


def marked_step(folder: Path, rank: int) -> int | None:
    """Give the last step that a rank has marked there; None: it has not come to its first."""
    try:
        content = _file(folder, rank).read_bytes()
    except FileNotFoundError:
        return None
    return None if content == _NO_STEP else int.from_bytes(content, sys.byteorder)


def _file(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.step"
