"""mpiruns of a check: one that fails without a word is started again, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcode.check.commands import run_mpiruns

LIMIT_SECONDS = 30.0
# Of mpirun's, by chance: see pcode.launch.relay.
WARNING = "[host-1:91] plm:ssh: Warning: setpgid(97,97) failed in parent with errno=Permission (13)"


def program(folder: Path, first: str, then: str) -> list[str]:
    """A command that does one thing when it is first started and another one from then on."""
    file, mark = folder / "mpirun", folder / "mark"
    file.write_text(f"#!/bin/sh\nif test -e {mark}; then {then}; fi\ntouch {mark}\n{first}\n")
    file.chmod(0o755)
    return [str(file)]


@pytest.mark.parametrize("said", ["", f"echo '{WARNING}' >&2;"], ids=["nothing", "a warning"])
def test_what_fails_without_a_word_is_started_again(tmp_path: Path, said: str) -> None:
    notes: list[str] = []
    command = program(tmp_path, f"{said} exit 213", "echo good; exit 0")
    (done,) = run_mpiruns([command], LIMIT_SECONDS, notes.append)
    assert (done.status, done.output) == (0, "good\n")
    assert notes == ["mpirun ended with status 213, without a word: started again"]


def test_what_fails_again_has_failed(tmp_path: Path) -> None:
    notes: list[str] = []
    (done,) = run_mpiruns([program(tmp_path, "exit 213", "exit 214")], LIMIT_SECONDS, notes.append)
    assert done.reason(LIMIT_SECONDS) == "it ended with status 214"
    assert len(notes) == 1


@pytest.mark.parametrize("first", ["echo why >&2; exit 1", "echo why; exit 1", "exit 0"])
def test_what_says_why_or_succeeds_is_not(tmp_path: Path, first: str) -> None:
    notes: list[str] = []
    command = program(tmp_path, first, "echo again; exit 0")
    (done,) = run_mpiruns([command], LIMIT_SECONDS, notes.append)
    assert "again" not in done.output
    assert notes == []
