"""Files of tensors, written whole, with a digest of what was to be written."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from pcode.utils.files import whole_file


class _Passing(io.RawIOBase):
    """A file that is written from begin to end, with a digest of what passes.

    Attributes:
        error: what writing has failed with: torch.save says something else of it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.digest.update(content)
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = error
            raise


def _in_host_memory(content: Any) -> Any:
    """The same with tensors of any device copied, so that a machine without it can read them."""
    if isinstance(content, torch.Tensor):
        return content.cpu()
    if isinstance(content, dict):
        return type(content)((name, _in_host_memory(value)) for name, value in content.items())
    if isinstance(content, list | tuple):
        return type(content)(map(_in_host_memory, content))
    return content


def save_tensors(
    path: Path, content: Any, before_it_counts: Callable[[BinaryIO], None] | None = None
) -> bytes:
    """Write what torch.load(weights_only=True) reads, whole or not at all; its SHA-256.

    Args:
        content: tensors, numbers, texts, and lists and dictionaries of them.
        before_it_counts: called with the file, before it takes the place of `path`.

    Raises:
        OSError: it cannot be written.
    """
    with whole_file(path) as file:
        passing = _Passing(file)
        try:
            torch.save(_in_host_memory(content), cast(IO[bytes], passing))
        except RuntimeError:
            if passing.error is not None:
                raise passing.error from None
            raise
        if before_it_counts is not None:
            before_it_counts(file)
    return passing.digest.digest()
