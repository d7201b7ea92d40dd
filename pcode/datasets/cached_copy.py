"""What is made of a file once and cached beside it."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pcode.datasets.data_files import alone
from pcode.utils.files import whole_file

# Of every cached copy; another one makes the copies that there are be made anew.
VERSION = 1
# A line of JSON with spaces before its end: what follows it is aligned for any type.
HEADER_BYTES = 256


@contextmanager
def cached_copy(
    source: Path, layout: str, make: Callable[[BinaryIO], None]
) -> Iterator[tuple[BinaryIO, int]]:
    """Open what `make` writes of `source` where that begins; yield the file and its bytes.

    It is cached as SOURCE.kept, after a header of HEADER_BYTES with VERSION, the layout, the size
    and the time of modification of the source, and the number of bytes that follow. Where these are
    not so, because the source is another one or the copy was cut, it is made anew. Of several
    processes that ask at once, one makes it and the others wait (a lock on SOURCE.lock). It appears
    when it is whole and on the disk. Where the folder cannot be written to, each process makes a
    temporary file of its own.

    Args:
        layout: what the copy consists of, in a few ASCII words: of another layout it is another.
        make: writes to a file that may be seeked in, but not before where it stands.

    Raises:
        OSError: a file cannot be read or written.
    """
    status = source.stat()

    def header(num_bytes: int) -> bytes:
        content = {
            "version": VERSION,
            "layout": layout,
            "source_bytes": status.st_size,
            "source_time_ns": status.st_mtime_ns,
            "bytes": num_bytes,
        }
        return json.dumps(content).ljust(HEADER_BYTES - 1).encode("ascii") + b"\n"

    def write(file: BinaryIO) -> None:
        file.seek(HEADER_BYTES)
        make(file)
        num_bytes = file.seek(0, os.SEEK_END) - HEADER_BYTES
        file.seek(0)
        file.write(header(num_bytes))
        file.flush()

    def find() -> BinaryIO | None:
        """Open the copy, if it is there, is whole and of this source and layout."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        if file.read(HEADER_BYTES) == header(os.fstat(file.fileno()).st_size - HEADER_BYTES):
            return file
        file.close()
        return None

    path = source.with_name(f"{source.name}.kept")
    file = find()
    if file is None and os.access(source.parent, os.W_OK):
        with alone(source.with_name(f"{source.name}.lock")):
            file = find()
            if file is None:
                with whole_file(path) as new:
                    write(new)
                    os.fchmod(new.fileno(), 0o644)  # others who read the source use it too
                file = path.open("rb")
    elif file is None:
        file = tempfile.TemporaryFile()  # noqa: SIM115  # closed below
        write(file)
    with file:
        num_bytes = file.seek(0, os.SEEK_END) - HEADER_BYTES
        file.seek(HEADER_BYTES)
        yield file, num_bytes
