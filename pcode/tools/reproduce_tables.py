"""The paper's tables: their cells, the paper's figures, and the flags of their runs.

A new table is a folder of configs/ with a file for each cell, and a file beside it that lists them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import yaml

from pcode.config import Config, parse

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
# What a table is rehearsed on. Any other data set is trained on with the paper's own flags.
REHEARSED = ("digits", "synthetic")
DIVERGES: Literal["div"] = "div"
PaperFigure = float | Literal["div"] | None


@dataclass(frozen=True)
class Cell:
    """One figure of a table, of the runs of configs/TABLE/FILE.yaml.

    Attributes:
        file: as the name, unless several cells share one.
        flags: after those of the file.
        row: where it stands; None: below the table, where it is called what `column` says.
        paper: the paper's figure, mean over its runs; None where it prints no number.
        metric: "top1" (%) or "perplexity".
    """

    name: str
    row: str | None
    column: str
    paper: PaperFigure = None
    metric: str = "top1"
    file: str | None = None
    flags: str = ""


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper, as configs/NAME.yaml describes it.

    The paper's figures were measured with these models on these data. A panel of the picture shows
    a column over the rows, a row over the columns, or all of it, a curve for each column. The note
    is a sentence on the paper's figures. `judged` is what runs are judged by, of
    results_runs.OF_METRIC. In a rehearsal, which takes minutes, runs get these flags
    after SMALL, by patterns of the cells' names.
    """

    name: str
    data: str
    models: str
    cells: tuple[Cell, ...]
    rehearsal: Mapping[str, str]
    panels: Literal["column", "row", "curves"] = "column"
    note: str = ""
    judged: Literal["test", "late_worst_test"] = "test"


# One rate for all cells, and gamma as it is for each compressor without a flag: what was tuned for
# the paper's data is not tuned for others.
SMALL = (
    "--backend sim --num_threads 1 --train_fast True "
    "--lr 0.1 --lr_scaleup False --lr_warmup False --consensus_stepsize none"
)


def _read(file: Path) -> Table:
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    cells = tuple(Cell(**cell) for cell in content.pop("cells"))
    return Table(file.stem, cells=cells, **content)


TABLES = {file.stem: _read(file) for file in sorted(CONFIGS.glob("*.yaml"))}


def is_rehearsal(data: str | None) -> bool:
    """Return whether the table's rehearsal applies on that data set; None is the files' own."""
    return data is not None and data.partition(":")[0] in REHEARSED


@dataclass(frozen=True)
class Setting:
    """How the cells of a table are run, each once for every seed, in a folder.

    Data and epochs take the place of the files' own; with `simulate` the nodes are simulated.
    """

    table: Table
    data: str | None
    epochs: int | None
    seeds: range
    folder: Path
    simulate: bool = False

    def flags(self, cell: Cell, seed: int) -> list[str]:
        """Return those of run.py, but for the folder of the run; a UserError: one is wrong."""
        file = CONFIGS / self.table.name / f"{cell.file or cell.name}.yaml"
        flags = ["--config", str(file), *cell.flags.split()]
        published = parse(flags).config.flat()
        flags += ["--data", self.data] if self.data is not None else []
        rehearsal = [("*", SMALL), *self.table.rehearsal.items()] if is_rehearsal(self.data) else ()
        for pattern, more in rehearsal:
            flags += more.split() if fnmatchcase(cell.name, pattern) else []
        flags += ["--backend", "sim"] if self.simulate else []
        flags += ["--manual_seed", f"{seed}"]
        flags += ["--num_epochs", f"{self.epochs}"] if self.epochs is not None else []
        share = parse(flags).config.learning.num_epochs / published["num_epochs"]
        if share != 1 and published["lr_change_epochs"] is not None:
            changes = (f"{epoch * share:g}" for epoch in published["lr_change_epochs"])
            flags += ["--lr_change_epochs", ",".join(changes)]
        return flags

    def config(self, cell: Cell, seed: int) -> Config:
        return parse(self.flags(cell, seed)).config
