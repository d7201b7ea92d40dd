"""What a user's mistake has to come to: one line that names it, status 2, nothing written."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pcode.main import main
from pcode.utils.errors import USER_ERROR

# What stands in the line: the flag, file or variable to mend.
Refuse = Callable[[Sequence[str], str], str]


def listing(folder: Path) -> dict[str, str]:
    """Everything below the folder: path -> kind, and what it holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = ""
        if stat.S_ISREG(mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(mode):
            content = os.readlink(path)
        found[str(path)] = f"{stat.filemode(mode)} {content}"
    return found


@pytest.fixture
def refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Refuse:
    """run.py's main, in tmp_path, which has to refuse these flags; its line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])  # not pytest, were a mistake not found

    def refused(flags: Sequence[str], named: str) -> str:
        before = listing(tmp_path)
        assert main(flags) == USER_ERROR
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("run.py: error: ")
        assert printed.err.endswith("\n")
        assert len(printed.err.splitlines()) == 1
        assert named in printed.err
        assert listing(tmp_path) == before
        return printed.err

    return refused
