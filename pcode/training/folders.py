"""A run's folder, CHECKPOINT/DATA/ARCH/EXPERIMENT/TIMESTAMP: where it may be, who trains in it."""

import fcntl
import os
import time
from pathlib import Path
from typing import BinaryIO

from pcode.config import Config
from pcode.utils.errors import UserError

LONGEST_NAME_BYTES = 255  # of a file on the usual file systems
SUMMARY = "summary.json"
# How long who asks whether a run is locked may lock it.
ASKING_SECONDS = 2.0


def runs_folder(config: Config) -> Path:
    """The folder in which the runs of this experiment have theirs, by timestamp."""
    watch = config.watch
    return Path(watch.checkpoint, config.data.data, config.model.arch, watch.experiment)


def check_folder(config: Config) -> None:
    """Refuse what cannot be, or cannot be made, the folder of a run."""
    watch = config.watch
    for name, value in (("experiment", watch.experiment), ("timestamp", watch.timestamp)):
        if value is not None and (value in ("", "..") or Path(value).name != value):
            raise UserError(f"--{name} {value!r}: must be the name of one folder")
        if value is not None and len(os.fsencode(value)) > LONGEST_NAME_BYTES:
            raise UserError(f"--{name}: longer than {LONGEST_NAME_BYTES} bytes")
    place = runs_folder(config).absolute()
    try:
        place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UserError(f"--checkpoint {watch.checkpoint}: {error.strerror}") from None
    existing = next(folder for folder in (place, *place.parents) if os.path.lexists(folder))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"--checkpoint {watch.checkpoint}: cannot write into {existing}")
    if watch.resume is None:
        check_new(config)


def check_new(config: Config) -> None:
    """Refuse to overwrite a run."""
    timestamp = config.watch.timestamp
    if timestamp is not None and (runs_folder(config) / timestamp).exists():
        raise UserError(
            f"--timestamp {timestamp}: the run {runs_folder(config) / timestamp} exists"
        )


def is_locked(run: Path) -> bool:
    """Whether a process trains in this folder."""
    try:
        with (run / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # many may ask at once
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        pass
    return False


def lock(run: Path) -> BinaryIO:
    """Keep others from training in this folder as long as the file is open.

    Raises:
        UserError: another process does already.
    """
    file = (run / ".lock").open("ab")
    deadline = time.monotonic() + ASKING_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # who looks for a run that has not ended holds it for a moment too
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            file.close()
            raise UserError(f"--resume {run}: another process trains it") from None
        except OSError:  # a file system without locks
            pass
        return file
