"""Words of private dialects, which the code, its help and messages and the pages do without."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.pages import PAGES
from tests.support.programs import ROOT

# What used to be said, and what is said instead.
RETIRED = {
    r"laws?": "optimizer",
    r"rooms": "layout",
    r"num_parts|parts of (a|the) node": "local ranks",
    r"meetings?|meets?": "synchronisation point",
    r"spared": "no_decay",
    r"sick|healed|healthy|incurable": "diverged, restored, unrecoverable",
    r"told": "reported",
    r"takes? in": "receive",
    r"doubts?|remarks?": "warnings, notes",
    r"refuses?": "validate",
    r"hand(s|ed|ing)?_on|hands? on|handed on": "pass on, warm start",
    r"abandon\w*": "cancel pending",
    r"rebuil[dt]": "resynchronise",
    r"landing": "receive buffers",
    r"settles?|settled": "copy back, synchronize",
    r"kept": "selected, cached, retained",
}
# Names in files and variables that users have.
FORMATS = re.compile(
    r'"law"|cleanPodPolicy: Running|"healed"|"meeting"|\.kept\b|decentralization meets'
)
CLASSES = r"Running|Board|Start(?= ?\()"  # RunState, event writer, ResumePoint
WORDS = rf"(?i:{'|'.join(RETIRED)})|{CLASSES}"
PATTERN = re.compile(rf"(?<![a-zA-Z-])({WORDS})(?![a-zA-Z-])")
SOURCES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("run.py", "pcode/**/*.py", "environments/**/*.*", "configs/**/*.yaml")
    for path in ROOT.glob(pattern)
    if "__pycache__" not in path.parts
)


def found(name: str) -> list[str]:
    """The lines of a file in which a retired word stands."""
    lines = Path(ROOT, name).read_text(encoding="utf-8").splitlines()
    return [
        f"{name}:{number}: {match[0]}: {line.strip()}"
        for number, line in enumerate(lines, start=1)
        for match in PATTERN.finditer(FORMATS.sub("", line))
    ]


def test_the_pattern_finds_what_it_is_for() -> None:
    for line in ("the law's copies", "a node that was told", "class Running(Node):", "k kept"):
        assert PATTERN.search(line)


@pytest.mark.parametrize("name", [*SOURCES, *PAGES, "configs/README.md"])
def test_no_retired_word(name: str) -> None:
    assert found(name) == []
