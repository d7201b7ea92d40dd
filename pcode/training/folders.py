"""Where runs are saved: CHECKPOINT/DATA/ARCH/EXPERIMENT/TIMESTAMP."""

import os
from pathlib import Path

from pcode.config import Config
from pcode.config.options import Watch
from pcode.utils.errors import UserError

LONGEST_NAME_BYTES = 255  # of a file on the usual file systems


def check_folder(config: Config) -> None:
    """A run's folder is CHECKPOINT/DATA/ARCH/EXPERIMENT/TIMESTAMP."""
    watch = config.watch
    for name, value in (("experiment", watch.experiment), ("timestamp", watch.timestamp)):
        if value is not None and (value in ("", "..") or Path(value).name != value):
            raise UserError(f"--{name} {value!r}: must be the name of one folder")
        if value is not None and len(os.fsencode(value)) > LONGEST_NAME_BYTES:
            raise UserError(f"--{name}: longer than {LONGEST_NAME_BYTES} bytes")
    place = runs_folder(config).absolute()
    existing = next(folder for folder in (place, *place.parents) if _is_there(watch, folder))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"--checkpoint {watch.checkpoint}: cannot write into {existing}")
    if watch.resume is None:
        check_new(config)


def _is_there(watch: Watch, place: Path) -> bool:
    """Whether there is anything of that name, a link to nowhere included."""
    try:
        place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UserError(f"--checkpoint {watch.checkpoint}: {error.strerror}") from None
    return True


def check_new(config: Config) -> None:
    """Refuse to overwrite a run."""
    timestamp = config.watch.timestamp
    if timestamp is not None and (runs_folder(config) / timestamp).exists():
        raise UserError(
            f"--timestamp {timestamp}: the run {runs_folder(config) / timestamp} exists"
        )


def runs_folder(config: Config) -> Path:
    """The folder in which the runs of this experiment have theirs, by timestamp."""
    watch = config.watch
    return Path(watch.checkpoint, config.data.data, config.model.arch, watch.experiment)
