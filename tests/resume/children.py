"""Simulated runs, started one after another in the same folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.run import runs


class Ended(NamedTuple):
    """How a run ended: its status (-9: killed) and what it printed."""

    status: int
    output: str


def run(folder: Path, flags: Sequence[str], inject: str = "") -> Ended:
    """`run.py --backend sim FLAGS` in `folder`; what fails on purpose is PCODE_INJECT."""
    done = runs.run(folder, "--backend", "sim", *flags, PCODE_INJECT=inject)
    return Ended(done.returncode, done.stdout + done.stderr)


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
