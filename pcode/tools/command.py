"""What the tools share as commands."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

from pcode.utils.errors import INTERRUPTED, USER_ERROR, UserError
from pcode.utils.files import printable

FAILED = 1  # the exit status where a run failed or cannot be read
# Of pictures.
FORMATS = (".png", ".pdf", ".svg")


class Parser(argparse.ArgumentParser):
    """argparse that takes no abbreviations and reports through UserError, in one line."""

    def __init__(self, prog: str, description: str | None, **settings: Any) -> None:
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(
            prog, description=description, formatter_class=raw, allow_abbrev=False, **settings
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def check_writable(flag: str, name: str | Path | None, suffixes: Sequence[str] = ()) -> None:
    """Raise a UserError for a file that could not be written at the end, or of another suffix."""
    if name is None:
        return
    path = Path(name)
    if suffixes and path.suffix.lower() not in suffixes:
        raise UserError(f"--{flag} {path}: the suffix must be one of {', '.join(suffixes)}")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"--{flag} {path}: cannot be written; name a file in an existing folder")


def write(name: str | Path | None, text: str) -> None:
    """Write a file if one is asked for."""
    if name is not None:
        Path(name).write_text(text, encoding="utf-8")


def say(line: str) -> None:
    """Write a line to the standard error."""
    print(printable(line), file=sys.stderr)


def as_it_stands(text: str) -> str:
    """Return a text as matplotlib is given it: `$` begins no formula, and `_` hides no label."""
    return re.sub("^_", " _", text).replace("$", r"\$")


Main = Callable[[Sequence[str]], int]


def tool(name: str) -> Callable[[Callable[[Sequence[str]], int | None]], Main]:
    """Make a function of arguments a tool's main, which returns the exit status.

    That is the function's (None: 0), 2 after a line that says why it cannot follow them, or 130 for
    Ctrl-C.
    """

    def make(run: Callable[[Sequence[str]], int | None]) -> Main:
        @wraps(run)
        def returning_status(arguments: Sequence[str]) -> int:
            try:
                return run(arguments) or 0
            except UserError as error:
                say(f"{name}: error: {error}")
                return USER_ERROR
            except KeyboardInterrupt:
                return INTERRUPTED

        return returning_status

    return make
