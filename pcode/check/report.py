"""The lines that a check prints, and the exit status that they amount to."""

from __future__ import annotations

from collections.abc import Iterable

WRONG_STATUS = 1
_WRONG = "WRONG"


class Report:
    """Prints a line for each thing that was looked at, as soon as it is known.

    Attributes:
        num_wrong: lines that say what is wrong.
    """

    def __init__(self) -> None:
        self.num_wrong = 0

    def ok(self, text: str) -> None:
        """It is as a run needs it."""
        _print("ok", text)

    def note(self, text: str) -> None:
        """It is no obstacle, but to be known."""
        _print("note", text)

    def wrong(self, text: str) -> None:
        """It has to be changed before a run."""
        self.num_wrong += 1
        _print(_WRONG, text)

    def repeat(self, line: str) -> None:
        """A line of another report."""
        self.num_wrong += line.startswith(_WRONG)
        print(line, flush=True)

    def table(self, lines: Iterable[str]) -> None:
        """Figures, below the line that they belong to."""
        for line in lines:
            _print("", line)

    def status(self) -> int:
        """0: nothing is wrong; 1: something is. It is said in a last line."""
        if self.num_wrong == 0:
            print("nothing is wrong", flush=True)
            return 0
        things = "1 thing is" if self.num_wrong == 1 else f"{self.num_wrong} things are"
        print(f"{things} wrong", flush=True)
        return WRONG_STATUS


def _print(mark: str, text: str) -> None:
    print(f"{mark:<5}  {text}", flush=True)
