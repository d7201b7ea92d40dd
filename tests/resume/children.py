"""Runs as processes of their own, forked from a server, so that none imports torch again."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pcode.main import main

LIMIT_SECONDS = 120.0
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.resume.preload", "tests.resume.children"])


class Ended(NamedTuple):
    """How a run ended: its status (-9: killed) and what it printed."""

    status: int
    output: str


def _child(folder: str, arguments: list[str], inject: str) -> None:
    os.chdir(folder)
    os.environ["PCODE_INJECT"] = inject
    os.environ["OMP_NUM_THREADS"] = "1"
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.exit(main(arguments))


def run(folder: Path, flags: Sequence[str], inject: str = "") -> Ended:
    """`run.py --backend sim FLAGS` in `folder`; what fails on purpose is PCODE_INJECT."""
    arguments = ["--backend", "sim", "--checkpoint", "runs", *flags]
    child = _CONTEXT.Process(target=_child, args=(str(folder), arguments, inject))
    child.start()
    child.join(LIMIT_SECONDS)
    if child.is_alive():
        child.kill()
        child.join()
        raise AssertionError(f"not done after {LIMIT_SECONDS} s: {flags}")
    assert child.exitcode is not None
    return Ended(child.exitcode, (folder / "output").read_text())


def finished(folder: Path, flags: Sequence[str]) -> dict[str, Any]:
    """The summary of a run that has to end well: that of the newest in `folder`."""
    ended = run(folder, flags)
    assert ended.status == 0, ended.output
    return summary(folder)


def run_folder(folder: Path) -> Path:
    """The newest run's folder in `folder`."""
    return max((folder / "runs").glob("*/*/*/*"), key=lambda run: run.name)


def summary(folder: Path) -> dict[str, Any]:
    """summary.json of the newest run in `folder`."""
    content: dict[str, Any] = json.loads((run_folder(folder) / "summary.json").read_text())
    return content


def records(folder: Path, rank: int) -> list[dict[str, Any]]:
    """log.jsonl of a node of the newest run, without what is measured in seconds."""
    lines = (run_folder(folder) / str(rank) / "log.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    for record in found:
        record.pop("seconds", None)
        record.pop("step_seconds", None)
    return found
