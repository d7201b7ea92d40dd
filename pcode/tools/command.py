"""What the tools share as commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from pcode.errors import UserError
from pcode.exit_status import USER_ERROR


class Parser(argparse.ArgumentParser):
    """argparse that reports through UserError, in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def call(name: str, run: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Do what the arguments ask for; 0, or 2 after a line that says why they cannot be followed."""
    try:
        run(arguments)
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return USER_ERROR
    return 0
