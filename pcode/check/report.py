"""The lines that a check prints, and the exit status that they amount to."""

from collections.abc import Iterable

WRONG_STATUS = 1
_WRONG = "WRONG"


class Report:
    """Prints a line for each thing that was looked at, as soon as it is known.

    Attributes:
        num_wrong: lines that say what has to be changed before a run.
    """

    def __init__(self) -> None:
        self.num_wrong = 0

    def ok(self, text: str) -> None:
        self.repeat(f"{'ok':<5}  {text}")

    def note(self, text: str) -> None:
        """Print what is no obstacle, but to be known."""
        self.repeat(f"{'note':<5}  {text}")

    def wrong(self, text: str) -> None:
        self.repeat(f"{_WRONG}  {text}")

    def repeat(self, line: str) -> None:
        """Print a line of another report."""
        self.num_wrong += line.startswith(_WRONG)
        print(line, flush=True)

    def table(self, lines: Iterable[str]) -> None:
        """Print figures, below the line that they belong to."""
        for line in lines:
            self.repeat(f"{'':<5}  {line}")

    def status(self) -> int:
        """Print the last line; return 0 where nothing is wrong, else WRONG_STATUS."""
        if self.num_wrong == 0:
            self.repeat("nothing is wrong")
            return 0
        things = "1 thing is" if self.num_wrong == 1 else f"{self.num_wrong} things are"
        self.repeat(f"{things} wrong")
        return WRONG_STATUS
