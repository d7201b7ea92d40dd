"""A table of the paper as text: our figures beside the paper's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import pandas as pd

from pcode.config import Config
from pcode.tools.reproduce_runs import Setting
from pcode.tools.reproduce_tables import DIVERGES, Table
from pcode.tools.results_table import PERCENT, mean_text
from pcode.utils import tables


def summarise(table: Table, runs: pd.DataFrame) -> pd.DataFrame:
    """Average the runs of each cell.

    Args:
        runs: see `run_all`.

    Returns:
        A row for each cell that was run. Columns are Cell's fields; `mean` and `deviation` of the
        runs that did not diverge (NaN: there are none; a deviation of 0: there is one);
        `num_diverged`; and `ours`, all of it as text.
    """
    cells = pd.DataFrame([asdict(cell) for cell in table.cells], dtype=object)
    cells = cells.set_index("name", drop=False).loc[runs["cell"].unique()]
    figures = runs[runs["failure"].isna()].groupby("cell")["figure"]
    return cells.assign(
        mean=figures.mean(),
        deviation=figures.std().fillna(0),
        num_diverged=figures.size() - figures.count(),
        ours=figures.apply(_ours),
    ).fillna({"num_diverged": 0, "ours": "failed"})


def _ours(figures: pd.Series[float]) -> str:
    num_diverged = figures.isna().sum()
    if num_diverged == len(figures):
        return DIVERGES
    mean = mean_text(figures, *PERCENT)
    return f"{mean} ({num_diverged} of {len(figures)} div)" if num_diverged else mean


def _paper(figure: object) -> str:
    """Write the paper's figure; nothing where it prints none."""
    if isinstance(figure, float):
        return f"{figure:.2f}"
    return DIVERGES if figure == DIVERGES else ""


def _configs(setting: Setting, cells: pd.DataFrame) -> list[Config]:
    return [setting.config(cell, setting.seeds.start) for cell in cells.itertuples()]


def _listed(words: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(words))


def data_sets(setting: Setting, cells: pd.DataFrame) -> str:
    """Name what ours were measured on."""
    return _listed(config.data.data for config in _configs(setting, cells))


def caption(setting: Setting, cells: pd.DataFrame) -> str:
    """Say how ours were measured."""
    configs = _configs(setting, cells)
    models = _listed(f"{config.model.arch} on {config.data.data}" for config in configs)
    epochs = sorted({config.learning.num_epochs for config in configs})
    runs = "1 run" if len(setting.seeds) == 1 else f"{len(setting.seeds)} runs"
    return f"{models}, {' or '.join(map(str, epochs))} epochs, {runs}"


def markdown(setting: Setting, cells: pd.DataFrame) -> str:
    """Write the cells that were run, the paper's figure beside ours.

    Args:
        cells: see `summarise`.
    """
    below = cells["row"].isna()
    lines = [*_grid(cells[~below]), ""] if not below.all() else []
    table = setting.table
    sentences = [
        f"{cell.column}: {cell.ours} (paper {_paper(cell.paper)})."
        for cell in cells[below].itertuples()
    ]
    sentences += [
        f"Ours: {caption(setting, cells)}; the paper's: {table.models} on {table.data}.",
        *([table.note] if table.note else []),
    ]
    return "\n".join([*lines, " ".join(sentences)]) + "\n"


def _grid(cells: pd.DataFrame) -> list[str]:
    """Write the lines of the table proper."""
    shown: dict[tuple[str, str], dict[str, str]] = {}
    for column, of_column in cells.groupby("column", sort=False):
        by_row = of_column.set_index("row")
        shown[column, column] = by_row["ours"]
        if by_row["paper"].notna().any():  # a column for the paper's figures only where it has some
            shown[column, "paper"] = by_row["paper"].map(_paper)
    grid = pd.DataFrame(shown).reindex(cells["row"].unique()).fillna("")
    head = ["", *grid.columns.get_level_values(1)]
    body = [[row, *texts] for row, *texts in grid.itertuples()]
    return tables.markdown([head, *body], {""})
