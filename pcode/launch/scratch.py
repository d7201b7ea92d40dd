"""A folder for what mpirun, MPI and the ranks keep on this machine while a run lasts."""

import errno
import fcntl
import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pcode.utils.errors import UserError

_MEMORY = Path("/dev/shm")
_PREFIX = "pcode-"
# A file in every such folder that has been locked, without which none is taken for one.
_MARK = ".made-by-pcode-launch"
# Open MPI asks whether there is room for a rank's shared memory, of 16 MiB.
_ROOM_BYTES = 32 << 20
# Of the folder's path: Open MPI puts sockets some 70 bytes below it, and a socket's path has 107.
_LONGEST_PATH_BYTES = 32
# The folder in which a launcher wants to find the step that each rank is in: the killed cannot say.
STEPS_VARIABLE = "PCODE_STEPS"
_STEP_BYTES = 8
_NO_STEP = b"\xff" * _STEP_BYTES


@dataclass(frozen=True)
class Scratch:
    """A fresh folder of this user's alone, and a file descriptor that says that it is in use."""

    folder: Path
    lock: int

    def flags(self, here: bool) -> list[str]:
        """Return mpirun's flags to put its files there, and, where all ranks run here, MPI's."""
        flags = ["--prtemca", "prte_local_tmpdir_base", str(self.folder)]
        if here:  # other machines have no such folder
            flags += ["--mca", "btl_sm_backing_directory", str(self.folder)]
        return flags


@contextmanager
def scratch_folder() -> Iterator[Scratch]:
    """Make a folder that goes at the end, with all that killed processes left in it.

    mpirun names its files by its process id, and does not start where an earlier one of the same
    id was killed; ranks that are killed leave their shared memory, 16 MiB each, for ever. Folders
    whose launcher was itself killed go when the next one is made.
    """
    folder = _make_folder()
    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # without locks, no mark: nobody is to take it for one that is left
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / _MARK).touch()
        yield Scratch(folder, lock)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make_folder() -> Path:
    """Make it in the first place that takes one."""
    usual, reason = Path(tempfile.gettempdir()), ""
    is_short = len(os.fsencode(usual)) <= _LONGEST_PATH_BYTES - len("/pcode-12345678")
    for place in (_MEMORY, *([usual] if is_short else []), Path("/tmp")):
        try:
            _remove_orphaned(place)
            if shutil.disk_usage(place).free < _ROOM_BYTES:
                raise OSError(errno.ENOSPC, f"less than {_ROOM_BYTES >> 20} MiB are free")
            return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        except OSError as error:  # not there, not writable, or full
            reason = f"{place}: {error.strerror}"
    raise UserError(f"no place for mpirun's files: {reason}")


def _remove_orphaned(place: Path) -> None:
    """Remove this user's folders that nobody holds: a lock goes with its process."""
    for folder in place.glob(f"{_PREFIX}*"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # it went meanwhile, is no folder or another user's
            continue
        try:
            if os.fstat(lock).st_uid == os.geteuid() and (folder / _MARK).is_file():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # it is in use
            pass
        finally:
            os.close(lock)


class StepMark:
    """Where a rank writes its step: eight bytes of memory that outlive it; no call, no disk."""

    def __init__(self, rank: int) -> None:
        self._number: memoryview | None = None
        folder = os.environ.get(STEPS_VARIABLE)
        if folder is None:
            return
        # Other hosts' ranks may inherit the variable (Slurm hands everything on), not the folder;
        # and no run is to fail for a mark.
        with suppress(OSError):
            file = _file(Path(folder), rank)
            file.write_bytes(_NO_STEP)
            with file.open("r+b") as opened:
                self._number = memoryview(mmap.mmap(opened.fileno(), _STEP_BYTES)).cast("q")

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
