"""Files of data sets: read safely, and cached as what one process at a time makes of them."""

import fcntl
import io
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pcode.utils.errors import UserError
from pcode.utils.files import check_file, one_line, plain_file, unpacked, whole_file

# Of every cached copy; another one makes the copies that there are be made anew.
VERSION = 1
# A line of JSON with spaces before its end: what follows it is aligned for any type.
HEADER_BYTES = 256


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


def text_lines(
    path: Path, hint: str = "", newline: str | None = None, errors: str = "strict"
) -> Iterator[str]:
    """Read the lines of a file; a UserError names one that is no text or cannot be read."""
    try:
        with unpacked(path) as file:
            yield from io.TextIOWrapper(file, "utf-8", errors, newline)
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file (UTF-8)") from None
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise UserError(f"{path} cannot be read: {reason}{hint}") from None


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Let one process of this machine in at a time; the others wait.

    A file system without locks (NFS 3 without its lock service) lets all in. Of what fails no file
    is left: those that wait may then find others that come later.
    """
    try:
        opened = plain_file(str(lock), os.O_RDWR | os.O_CREAT)  # NFS locks none that is only read
    except PermissionError:  # another user's
        opened = plain_file(str(lock), os.O_RDONLY)
    with open(opened, "rb") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield  # closing the file unlocks it
        except BaseException:
            lock.unlink(missing_ok=True)
            raise


@contextmanager
def cached_copy(
    source: Path, layout: str, make: Callable[[BinaryIO], None]
) -> Iterator[tuple[BinaryIO, int]]:
    """Open what `make` writes of `source` where that begins; yield the file and its bytes.

    It is cached as SOURCE.kept, after a header of HEADER_BYTES with VERSION, the layout (a few
    ASCII words), the size and the time of modification of the source, and the number of bytes that
    follow. Where these are not so, because the source is another one or the copy was cut, it is
    made anew; so is one that somebody else has put into a folder for all, such as /tmp. Who may
    read the source, and nobody else, may read it. Of several processes that ask at once, one makes
    it and the others wait (a lock on SOURCE.lock). It appears when it is whole and on the disk.
    Where the folder cannot be written to, each process makes a temporary file of its own.

    `make` may seek in the file, but not before where it stands.
    """
    status = source.stat()
    of_source = {"source_bytes": status.st_size, "source_time_ns": status.st_mtime_ns}

    def header(num_bytes: int) -> bytes:
        content = {"version": VERSION, "layout": layout, **of_source, "bytes": num_bytes}
        return json.dumps(content).ljust(HEADER_BYTES - 1).encode("ascii") + b"\n"

    def write(file: BinaryIO) -> None:
        file.seek(HEADER_BYTES)
        make(file)
        num_bytes = file.seek(0, os.SEEK_END) - HEADER_BYTES
        file.seek(0)
        file.write(header(num_bytes))
        file.flush()

    def share(file: BinaryIO) -> None:
        """Let those read it who may read the source, and nobody else."""
        readers = status.st_mode & 0o044
        try:
            os.fchown(file.fileno(), -1, status.st_gid)
        except OSError:  # this user is not in the source's group, or it has no number here
            readers &= 0o004
        os.fchmod(file.fileno(), 0o600 | readers)

    def find() -> BinaryIO | None:
        """Open the copy, if it is there, is whole and of this source and layout."""
        try:
            file = open(path, "rb", opener=plain_file)  # noqa: SIM115  # closed by who asks
        except OSError:  # not there, or not for this user
            return None
        found = os.fstat(file.fileno())
        is_trusted = found.st_uid in (0, os.geteuid(), status.st_uid) or not is_sticky
        if is_trusted and file.read(HEADER_BYTES) == header(found.st_size - HEADER_BYTES):
            return file
        file.close()
        return None

    path = source.with_name(f"{source.name}.kept")
    # Elsewhere, who can put a copy there could as well put another source there.
    is_sticky = bool(source.parent.stat().st_mode & stat.S_ISVTX)
    file = find()
    if file is None and os.access(source.parent, os.W_OK):
        with alone(source.with_name(f"{source.name}.lock")):
            file = find()
            if file is None:
                with whole_file(path) as new:
                    share(new)
                    write(new)
                file = path.open("rb")
    elif file is None:
        file = tempfile.TemporaryFile()  # noqa: SIM115  # closed below
        write(file)
    with file:
        num_bytes = file.seek(0, os.SEEK_END) - HEADER_BYTES
        file.seek(HEADER_BYTES)
        yield file, num_bytes
