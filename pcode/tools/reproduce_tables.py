"""The paper's tables as data: their cells, the paper's figures, and the flags of their runs.

A new table is a folder of configs/ with a file for each cell, and one entry of TABLES.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pcode.config import Config, parse

ROOT = Path(__file__).parents[2]
# What a table is rehearsed on. Any other data set is trained on with the paper's own flags.
REHEARSED = ("digits", "synthetic")
DIVERGES: Literal["div"] = "div"
PaperFigure = float | Literal["div"] | None


@dataclass(frozen=True)
class Cell:
    """One figure of a table, of the runs of configs/TABLE/NAME.yaml.

    Attributes:
        row: where it stands; None: below the table, where it is called what `column` says.
        paper: the paper's figure, mean over its runs; None where it prints no number.
        metric: "top1" (%) or "perplexity".
    """

    name: str
    row: str | None
    column: str
    paper: PaperFigure = None
    metric: str = "top1"


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper; its name is that of its folder in configs/.

    The paper's figures were measured with these models on these data. A panel of the picture shows
    a column over the rows, a row over the columns, or all of it, a curve for each column. The note
    is a sentence on the paper's figures. In a rehearsal, which takes minutes, runs get these flags,
    by patterns of the cells' names.
    """

    name: str
    data: str
    models: str
    cells: tuple[Cell, ...]
    rehearsal: Mapping[str, str]
    panels: Literal["column", "row", "curves"] = "column"
    note: str = ""


# One rate for all cells, and gamma as it is for each compressor without a flag: what was tuned for
# the paper's data is not tuned for others.
_SMALL = (
    "--backend sim --num_threads 1 --train_fast True "
    "--lr 0.1 --lr_scaleup False --lr_warmup False --consensus_stepsize none"
)


def _figure(text: str) -> PaperFigure:
    return DIVERGES if text == DIVERGES else float(text)


_COMPRESSIONS = {
    **{f"qsgd-{bits}": f"qsgd {bits}" for bits in (16, 8, 4, 2)},
    **{
        f"{kind}-{share}": f"{kind} {share} %"
        for kind in ("random", "top")
        for share in (50, 10, 1)
    },
    "sign": "sign",
}
# In the order of _COMPRESSIONS.
_TABLE1 = {
    "DCD": "92.51 92.36 23.56 div 92.05 div div 92.40 91.97 89.79 92.40",
    "ECD": "92.02 59.11 div div div div div 17.03 16.78 18.03 div",
    "CHOCO": "92.34 92.30 91.92 91.41 92.54 91.87 91.32 92.54 92.29 91.73 92.46",
}
_SOCIAL: dict[tuple[str, str, str], tuple[PaperFigure, ...]] = {
    ("resnet20", "images, top-1 (%)", "top1"): (93.00, 92.29, 91.90),
    ("lstm", "language, perplexity", "perplexity"): (89.39, 96.33, 89.09),
}
_SOCIAL_OPTIMIZERS = {"centralized": "all-reduce", "dpsgd": "D-PSGD", "choco-sign": "CHOCO, sign"}
_SCALING_OPTIMIZERS = {
    "all-reduce": "all-reduce",
    "dpsgd-ring": "D-PSGD, ring",
    "dpsgd-torus": "D-PSGD, torus",
    "choco-ring": "CHOCO, sign, ring",
    "choco-torus": "CHOCO, sign, torus",
}

_ALL = (
    Table(
        "table1",
        data="CIFAR-10",
        models="ResNet-20",
        cells=(
            Cell("all-reduce", None, "Without compression, all-reduce", 92.64),
            *(
                Cell(f"{optimizer.lower()}-{name}", row, optimizer, _figure(text))
                for optimizer, texts in _TABLE1.items()
                for (name, row), text in zip(_COMPRESSIONS.items(), texts.split(), strict=True)
            ),
        ),
        rehearsal={"*": f"{_SMALL} --num_epochs 40 --batch_size 16"},
        note="Of the paper's runs of ECD with top-k two of three diverged.",
    ),
    Table(
        "scaling",
        data="CIFAR-10",
        models="ResNet-8",
        cells=tuple(
            Cell(f"{name}-{num_nodes}", f"{num_nodes} nodes", column)
            for name, column in _SCALING_OPTIMIZERS.items()
            for num_nodes in (4, 16, 36, 64)
        ),
        # 64 nodes have 22 of the digits' samples each
        rehearsal={"*": f"{_SMALL} --num_epochs 20 --batch_size 4"},
        panels="curves",
        note="The paper shows these runs in a figure, without numbers.",
    ),
    Table(
        "social",
        data="CIFAR-10 and WikiText-2",
        models="ResNet-20 and an LSTM",
        cells=tuple(
            Cell(f"{name}-{optimizer}", row, column, figure, metric)
            for (name, row, metric), figures in _SOCIAL.items()
            for (optimizer, column), figure in zip(_SOCIAL_OPTIMIZERS.items(), figures, strict=True)
        ),
        # 32 LSTMs of the paper's size do not fit into a small machine's memory
        rehearsal={
            "*": f"{_SMALL} --num_epochs 20 --batch_size 8",
            "lstm-*": "--data synthetic:text:100:50000 --rnn_n_hidden 64 --rnn_n_layers 1 "
            "--drop_rate 0 --batch_size 2 --lr 20",
        },
        panels="row",
    ),
    Table(
        "datacenter",
        data="ImageNet",
        models="ResNet-50",
        cells=(
            Cell("all-reduce", "top-1 (%)", "all-reduce", 76.37),
            Cell("choco-sign", "top-1 (%)", "CHOCO, sign", 75.15),
        ),
        rehearsal={
            "*": f"{_SMALL} --num_epochs 20 --n_sub_process 1 --on_cuda False --arch resnet20 "
            "--batch_size 16"
        },
        panels="row",
    ),
)
TABLES = {table.name: table for table in _ALL}


def is_rehearsal(data: str | None) -> bool:
    """Whether the table's rehearsal applies on that data set; None is the files' own."""
    return data is not None and data.partition(":")[0] in REHEARSED


@dataclass(frozen=True)
class Setting:
    """How the cells of a table are run, each once for every seed, in a folder.

    Data and epochs take the place of the files' own.
    """

    table: Table
    data: str | None
    epochs: int | None
    seeds: range
    folder: Path

    def flags(self, cell: Cell, seed: int) -> list[str]:
        """Return those of run.py, but for the folder of the run; a UserError: one is wrong."""
        flags = ["--config", str(ROOT / "configs" / self.table.name / f"{cell.name}.yaml")]
        published = parse(flags).config.flat()
        flags += ["--data", self.data] if self.data is not None else []
        for pattern, more in self.table.rehearsal.items() if is_rehearsal(self.data) else ():
            flags += more.split() if fnmatchcase(cell.name, pattern) else []
        flags += ["--manual_seed", f"{seed}"]
        flags += ["--num_epochs", f"{self.epochs}"] if self.epochs is not None else []
        share = parse(flags).config.learning.num_epochs / published["num_epochs"]
        if share != 1 and published["lr_change_epochs"] is not None:
            changes = (f"{epoch * share:g}" for epoch in published["lr_change_epochs"])
            flags += ["--lr_change_epochs", ",".join(changes)]
        return flags

    def config(self, cell: Cell, seed: int) -> Config:
        return parse(self.flags(cell, seed)).config
