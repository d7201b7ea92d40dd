"""Files of data sets: which are there, which are damaged, and how they are fetched."""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pcode.utils.errors import UserError
from pcode.utils.files import check_file, one_line


def stored(path: Path, ending: str) -> Path:
    """Return the file, or, where it is not there, the one with this ending if that is."""
    packed = path.with_name(path.name + ending)
    return packed if not os.path.exists(path) and os.path.exists(packed) else path


def missing(folder: Path, files: Sequence[str], ending: str = "") -> list[str]:
    """Return those of the files that are not in the folder, with or without the ending."""
    return [file for file in files if not os.path.exists(stored(folder / file, ending))]


@contextmanager
def reading(*paths: Path) -> Iterator[None]:
    """Turn whatever is raised inside into a UserError that names the files; also what is none."""
    try:
        for path in paths:
            names = str(path)
            check_file(path)
        names = " or ".join(map(str, paths))
        yield
    except UserError:  # of one file within the block
        raise
    # Damaged bytes make their readers raise nearly anything, and it all means the same here.
    except Exception as error:
        raise UserError(
            f"--data_dir: {names} cannot be read or is damaged "
            f"({type(error).__name__}: {one_line(error)}); put what was published in its place"
        ) from error


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Let one process of this machine in at a time; the others wait.

    Of what fails no file is left: those that wait then come one after another, but may find others
    that come later.
    """
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield  # closing the file unlocks it
        except BaseException:
            lock.unlink(missing_ok=True)
            raise


def fetch(
    name: str, folder: Path, files: Sequence[str], ending: str, download: Callable[[str], object]
) -> None:
    """Put the files that are missing into the folder; those that are there stay as they are.

    Of several ranks that come at once, one downloads and the others wait. What is not whole never
    has a file's name: the download goes to a folder beside and its files are moved when it ends.

    Args:
        files: names in the folder; only these are retained.
        ending: see `missing`.
        download: puts the files, under the same names, into the folder that it is given.

    Raises:
        UserError: they could not be fetched, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / f".{name}.lock"):
            absent = missing(folder, files, ending)
            if not absent:
                return
            with TemporaryDirectory(dir=folder, prefix=f".{name}-") as beside:
                download(beside)
                for file in absent:
                    (folder / file).parent.mkdir(parents=True, exist_ok=True)
                    (Path(beside) / file).replace(folder / file)
    # URLError is an OSError, torchvision says RuntimeError for a wrong checksum, and a damaged or
    # malicious archive makes its readers raise nearly anything.
    except Exception as error:
        raise UserError(
            f"--download True: {name} could not be fetched ({one_line(error)}); "
            f"to go on without a network put {', '.join(files)} into {folder}"
        ) from error
