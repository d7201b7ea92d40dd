"""The faults that are put into pcode to see whether the tests find them: faults.yaml."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_name("faults.yaml")
# Area -> the folder of the tests that lie nearest.
NEAREST = {
    "optim": "tests/optim",
    "compression": "tests/compression",
    "communication": "tests/communication",
    "mpi": "tests/mpi_backend",
    "topology": "tests/topology",
    "launch": "tests/launch",
    "training": "tests/training",
    "config": "tests/config",
    "check": "tests/check",
    "checkpoints": "tests/resume",
}


class StaleError(Exception):
    """A fault that cannot be put into today's sources."""


@dataclass(frozen=True)
class Fault:
    """One plausible mistake.

    Attributes:
        id: its name.
        area: one of NEAREST.
        kind: what sort of mistake it is.
        file: in which it is made, from the repository's root.
        old: the text that it replaces, which stands there once.
        new: what it puts there.
        breaks: what a user could see, in a sentence.
    """

    id: str
    area: str
    kind: str
    file: str
    old: str
    new: str
    breaks: str

    def source(self, root: Path) -> str:
        """The file's text with the fault in it.

        Raises:
            StaleError: what it replaces is not there once, or what comes out is no program.
        """
        if self.old == self.new:
            raise StaleError(f"{self.id}: changes nothing")
        try:
            text = (root / self.file).read_text(encoding="utf-8")
        except OSError as error:
            raise StaleError(f"{self.id}: {self.file}: {error.strerror}") from None
        if (times := text.count(self.old)) != 1:
            raise StaleError(f"{self.id}: `old` stands {times} times in {self.file}")
        changed = text.replace(self.old, self.new)
        try:
            compile(changed, self.file, "exec")
        except SyntaxError as error:
            raise StaleError(f"{self.id}: {self.file} does not compile: {error}") from None
        return changed


def read_faults(file: Path = LIST) -> list[Fault]:
    """All of the list, in its order."""
    return [Fault(**fields) for fields in yaml.safe_load(file.read_text(encoding="utf-8"))]


def mistakes(faults: Sequence[Fault], root: Path = ROOT) -> Iterator[str]:
    """What is wrong with the list, for these sources, in a line each."""
    for name, times in Counter(fault.id for fault in faults).items():
        if times > 1:
            yield f"{name}: stands there {times} times"
    for fault in faults:
        if not (root / NEAREST.get(fault.area, "nowhere")).is_dir():
            yield f"{fault.id}: no tests lie near the area {fault.area}"
        try:
            fault.source(root)
        except StaleError as error:
            yield str(error)
