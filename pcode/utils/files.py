"""Files: read within bounds as a user wrote them, and written whole or not at all."""

import bz2
import codecs
import difflib
import errno
import gzip
import hashlib
import heapq
import io
import json
import lzma
import os
import re
import secrets
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

# What an interrupted writer leaves begins with it.
TEMPORARY = ".tmp-"
# Of the names of compressed files, and what opens them.
_OPENERS: dict[str, Callable[..., Any]] = {".bz2": bz2.open, ".gz": gzip.open, ".xz": lzma.open}
PACKED = tuple(_OPENERS)
# What a compressed file may unpack to: so many times its bytes, and any to so many bytes.
_LARGEST_RATIO, _SMALL_BYTES = 100, 1 << 28
# What systems, archives and file servers leave in folders that people share, in small letters,
# besides names that begin with ".".
_LEFT_BY_SYSTEMS = {
    *("__macosx", "__pycache__", "lost+found", "thumbs.db", "desktop.ini"),
    *("$recycle.bin", "recycler", "system volume information", "~snapshot", "#snapshot"),
    *("#recycle", "@recycle", "@recently-snapshot", "@eadir", "@tmp", "@__thumb"),
}
LONGEST_NAME_BYTES = 255  # of a file on the usual file systems
# Among how many names at most those like another are looked for, for it takes 40 us a name.
_MOST_ALIKE = 500


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write, which takes the place of `path` when the block ends well.

    It lies on the disk by then, and so does its name. What a killed process leaves is
    `.tmp-NAME.XXXXXXXX` in the same folder.

    Raises:
        OSError: it cannot be written; what `path` was it still is.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raise as `whole_file`."""
    with whole_file(path) as file:
        file.write(content)


def sync_folder(path: Path) -> None:
    """Force the names in a folder to the disk."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have no such thing
            raise
    finally:
        os.close(folder)


LONGEST_QUOTE = 80


def cut(text: str, most: int) -> str:
    """Return a text of at most so many characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def shortened(text: str) -> str:
    """Return a text as it can stand in one line of an error."""
    return repr(cut(text, LONGEST_QUOTE))


def printable(text: str) -> str:
    """Return a text with Python's escapes for what a terminal or a file would not show as it is."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def one_line(reason: object) -> str:
    """Make one line of what another library says of a user's file, for an error."""
    return printable(" ".join(re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "", str(reason)).split()))


def file_name(text: str) -> str:
    """Name a file or a folder by a printable text: itself where it can be, else with a digest.

    It is one component of a path, is not hidden, and is short enough for the usual file systems.
    """
    name = text.replace("/", "_")
    name = f"_{name}" if is_hidden(name) else name
    if name == text and 0 < len(os.fsencode(text)) <= LONGEST_NAME_BYTES:
        return name
    digest = hashlib.sha256(os.fsencode(text)).hexdigest()[:8]
    longest = LONGEST_NAME_BYTES - len(digest) - 1
    return f"{os.fsencode(name)[:longest].decode(errors='ignore')}-{digest}"


def check_file(path: str | Path) -> None:
    """Check that it is a regular file, without opening it: a pipe or a device may never end.

    Raises:
        OSError: it is none, or not there; the message says what lies beside it.
        ValueError: no file can have such a name.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, f"{error.strerror}{beside(Path(path))}") from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file")


def plain_file(path: str, flags: int) -> int:
    """Be an `opener` of `open` that neither follows a link nor waits for a pipe.

    Raises:
        OSError: it is no regular file, or as `os.open`.
    """
    opened = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return opened


def _parts(
    path: str | Path,
    most_bytes: int,
    read: Callable[[io.BufferedReader, int], bytes],
    which: str = "",
) -> Iterator[bytes]:
    """Yield what `read` takes from a regular file, of at most `most_bytes` each, to its end."""
    try:
        check_file(path)
        with open(path, "rb") as file:
            while part := read(file, most_bytes + 1):
                if len(part) > most_bytes:
                    raise OSError(errno.EFBIG, f"{which}larger than {most_bytes} bytes")
                yield part
    except OSError as error:
        raise ValueError(error.strerror) from None
    except ValueError:  # a NUL or a lone surrogate
        raise ValueError("not the name of a file") from None


def read_bytes(path: str | Path, most_bytes: int) -> bytes:
    """Return what a regular file of at most `most_bytes` bytes holds; raise as `read_text`."""
    return next(_parts(path, most_bytes, io.BufferedReader.read), b"")


def read_text(path: str | Path, most_bytes: int) -> str:
    """Return the text of a regular file of at most `most_bytes` bytes, UTF-8.

    Raises:
        ValueError: why it cannot be read, in a few words.
    """
    return decoded(read_bytes(path, most_bytes))


def read_lines(path: str | Path, most_bytes: int) -> Iterator[bytes]:
    """Yield the lines of a regular file of any length, with their ends; raise as `read_text`.

    Each is of at most `most_bytes` bytes.
    """
    return _parts(path, most_bytes, io.BufferedReader.readline, "it has a line ")


def json_object(text: str) -> dict[str, Any]:
    """Return the JSON object that a text is; raise a ValueError where it is none."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    return content


def decoded(content: bytes) -> str:
    """Return the text of a file's bytes, without a byte-order mark; raise as `read_text`."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("not a text file (UTF-8)") from None


_SEAL = "# SHA-256 of the lines below: "


def sealed(text: str) -> str:
    """Return a text behind a line, a comment for YAML, by which damage to it is found."""
    return f"{_SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def unsealed(text: str) -> str:
    """Return what stands behind the first line of `sealed`; without such a line, the text.

    Raises:
        ValueError: it is not what was sealed.
    """
    if not text.startswith(_SEAL):
        return text
    seal, _, rest = text.replace("\r\n", "\n").partition("\n")
    if sealed(rest) != f"{seal}\n{rest}":
        raise ValueError(
            "damaged, or changed since it was written: its first line is the SHA-256 of another "
            "text; without that line it is taken as it is"
        )
    return rest


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of that name is not of the user's making."""
    return name.startswith(".") or name.casefold() in _LEFT_BY_SYSTEMS


def stored(path: Path) -> Path:
    """Return the file, or, where it is not there, the compressed one that is."""
    # The methods of Path raise for a name that is too long.
    there = (each for end in ("", *PACKED) if os.path.isfile(each := Path(f"{path}{end}")))
    return next(there, path)


def beside(path: Path) -> str:
    """Say for an error that a file is not there which ones are, those of similar names first."""
    try:
        names = [name for name in os.listdir(path.parent) if not is_hidden(name)]
    except OSError:
        return f"; there is no folder {path.parent}"

    def num_shared(name: str) -> int:
        return len(os.path.commonprefix((name, path.name)))  # noqa: RUF071  # it is of characters

    names = heapq.nlargest(_MOST_ALIKE, names, key=num_shared)
    alike = difflib.get_close_matches(path.name, names, n=5, cutoff=0)
    return f"; beside it lie {one_line(', '.join(alike))}" if alike else ""


def most_unpacked(path: Path) -> int:
    """Return to how many bytes a compressed file may unpack; no data does to more."""
    return max(_LARGEST_RATIO * path.stat().st_size, _SMALL_BYTES)


class _Bounded(io.RawIOBase):
    """Reads so many bytes of another file at most; more are an OSError."""

    def __init__(self, file: BinaryIO, most_bytes: int) -> None:
        self._file, self._most = file, most_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._file.read(len(buffer))
        if self._file.tell() > self._most:
            raise OSError(f"unpacks to more than {self._most:,} bytes, which no data does")
        buffer[: len(content)] = content
        return len(content)

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)


@contextmanager
def unpacked(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read, decompressed if its name says so, after the byte-order mark of UTF-8.

    Raises:
        OSError: it is no regular file or cannot be read, or the compressed bytes are damaged, also
            or unpack to more than any data does, where that is found out within the block.
    """
    check_file(path)
    try:
        with _OPENERS.get(path.suffix, open)(path, "rb") as opened:
            file = opened
            if path.suffix in _OPENERS:
                file = io.BufferedReader(_Bounded(opened, most_unpacked(path)), 1 << 16)
            if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
                file.seek(0)
            yield file
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise OSError(one_line(error)) from error
