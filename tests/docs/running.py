"""Running what a page shows, in a folder that looks like the repository's root."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.pages import Block, blocks
from tests.support.programs import ROOT, quick_python, run_command

# Copied, so that nothing is written into the repository; the package is a link, so that its
# kernels need not be compiled again.
COPIED = (
    *("README.md", "run.py", "setup.py", "pyproject.toml"),
    *("benchmarks", "configs", "docs", "environments", "iccluster", "tests"),
)
LINKED = "pcode"
# Some ten times what a page takes by itself on two cores.
LIMIT_SECONDS = 500.0


def make_root(folder: Path) -> None:
    """What a user's commands find in the repository's root."""
    folder.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        elif (ROOT / name).exists():
            shutil.copy2(ROOT / name, folder)
    (folder / LINKED).symlink_to(ROOT / LINKED)


def _is_run(block: Block) -> bool:
    return block.language == "bash" and block.not_run is None


def _is_used(program: str, texts: Sequence[str]) -> bool:
    """Whether a command runs it, or another program imports it."""
    name = re.escape(program)
    use = re.compile(rf"(?<!\w){name}\.py|^(import|from) {name}\b", re.MULTILINE)
    return any(use.search(text) for text in texts)


def script(page: str, folder: Path) -> str:
    """What a reader types: the page's commands, and `python NAME.py` for other programs.

    Programs are written into `folder`; those that a command or a program uses are not run by
    themselves. Each block's line is printed to stderr before it.
    """
    texts = [block.text for block in blocks(page) if _is_run(block) or block.program is not None]
    parts = []
    for block in blocks(page):
        command = block.text if _is_run(block) else None
        if block.program is not None:
            (folder / f"{block.program}.py").write_text(block.text, encoding="utf-8")
            if not _is_used(block.program, texts):
                command = f"python {shlex.quote(block.program)}.py\n"
        if command is not None:
            parts.append(f"echo {shlex.quote(f'{page}, line {block.line}')} >&2\n{command}")
    return "".join(parts)


def run_page(page: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a page in `folder`, which is made.

    Raises:
        AssertionError: it takes too long or leaves a process behind.
    """
    make_root(folder)
    file = folder.with_suffix(".sh")
    file.write_text(script(page, folder), encoding="utf-8")
    programs = (Path(python).parent for python in (quick_python(), sys.executable))
    path = os.pathsep.join([*map(str, programs), os.environ["PATH"]])
    # A process alone under MPI leaves a folder; the path is short enough for sockets.
    with tempfile.TemporaryDirectory() as temporary:
        return run_command(
            ["bash", "-euo", "pipefail", str(file)],
            folder,
            LIMIT_SECONDS,
            {"PATH": path, "TMPDIR": temporary},
        )
