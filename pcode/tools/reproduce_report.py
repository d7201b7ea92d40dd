"""A table of the paper as text and as a picture: our figures beside the paper's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pcode.config import Config
from pcode.tools.reproduce_tables import DIVERGES, Setting, Table
from pcode.tools.results_runs import LATE, LATE_EPOCHS, METRICS
from pcode.tools.results_table import PERCENT, mean_text
from pcode.utils import tables

OURS, PAPER, BASELINE = "tab:blue", "tab:orange", "tab:gray"
ASIDE = 0.12  # of a category's width, so that ours and the paper's do not hide one another
BOTTOM = 0.03  # of a panel's height: where a cross says that a run diverged


def summarise(table: Table, runs: pd.DataFrame) -> pd.DataFrame:
    """Average the runs of each cell, rows of `run_all`, into a row for each cell that was run.

    Columns are Cell's fields; `mean` and `deviation` of the runs that did not diverge (NaN: there
    are none; a deviation of 0: there is one); `num_diverged`; and `ours`, all of it as text.
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
    of = (
        f", the worst node in the last {LATE_EPOCHS} epochs" if setting.table.judged == LATE else ""
    )
    return f"{models}, {' or '.join(map(str, epochs))} epochs, {runs}{of}"


def markdown(setting: Setting, cells: pd.DataFrame) -> str:
    """Write the cells that were run, see `summarise`, the paper's figure beside ours."""
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


def draw(setting: Setting, cells: pd.DataFrame, path: Path) -> None:
    """Draw ours full, with their deviation, the paper's hollow; a cross: diverged.

    The cells are those of `summarise`; the path's suffix says the format.
    """
    draw_panels = _curves if setting.table.panels == "curves" else _beside
    draw_panels(setting, cells).savefig(path, dpi=150)


def _curves(setting: Setting, cells: pd.DataFrame) -> Figure:
    """Draw ours alone: a curve for each column over the rows, in one panel."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    panel = figure.subplots()
    rows = list(cells["row"].unique())
    columns, colors = cells.groupby("column", sort=False), mpl.color_sequences["tab10"]
    for (column, line), color, marker in zip(columns, colors, "osD^v", strict=False):
        _draw_ours(panel, line, line["row"].map(rows.index), color, fmt=f"{marker}-", label=column)
    panel.set_xticks(range(len(rows)), rows)
    panel.set_ylabel(f"{data_sets(setting, cells)}: {METRICS[cells['metric'].iloc[0]].label}")
    panel.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _draw_ours(
    panel: Axes, cells: pd.DataFrame, x: pd.Series[float], color: Any, **line: Any
) -> None:
    shown = cells["mean"].notna()
    figures = cells[shown]
    panel.errorbar(x[shown], figures["mean"], figures["deviation"], color=color, capsize=3, **line)
    _draw_crosses(panel, x[cells["num_diverged"] > 0], color)


def _draw_crosses(panel: Axes, x: pd.Series[float], color: Any) -> None:
    panel.plot(x, [BOTTOM] * len(x), "x", color=color, transform=panel.get_xaxis_transform())


def _beside(setting: Setting, cells: pd.DataFrame) -> Figure:
    """Draw a panel for each column or each row, the paper's figures beside ours."""
    by_row = setting.table.panels == "row"
    panel_of, place_of = ("row", "column") if by_row else ("column", "row")
    in_table, below = cells[cells["row"].notna()], cells[cells["row"].isna()]
    names = list(in_table[place_of].unique())
    num_panels = max(in_table[panel_of].nunique(), 1)
    figure = Figure(figsize=(8, 1 + 2 * num_panels), layout="constrained")
    panels = figure.subplots(num_panels, 1, sharex=True, sharey=not by_row, squeeze=False)[:, 0]
    for (title, group), panel in zip(in_table.groupby(panel_of, sort=False), panels, strict=False):
        metric = group["metric"].iloc[0]
        panel.set_ylabel(title if by_row else f"{title}\n{METRICS[metric].label}")
        place = group[place_of].map(names.index)
        _draw_ours(panel, group, place - ASIDE, OURS, fmt="o")
        _draw_crosses(panel, place[group["paper"] == DIVERGES] + ASIDE, PAPER)
        paper = pd.to_numeric(group["paper"], errors="coerce")
        panel.plot(place + ASIDE, paper, "o", mfc="none", color=PAPER)
        for mean in below["mean"].dropna():
            panel.axhline(mean, color=BASELINE, linewidth=1)
        panel.set_ylim(0, 104 if metric == "top1" else None)
        panel.grid(axis="y", alpha=0.3)
    turned = 90 if len(names) > 12 else 30 if len(names) > 5 else 0  # degrees
    panels[-1].set_xticks(
        range(len(names)), names, rotation=turned, ha="right" if turned == 30 else "center"
    )
    panels[-1].set_xlim(-0.6, len(names) - 0.4)
    keys: list[dict[str, Any]] = [
        {"marker": "o", "color": OURS, "label": f"{data_sets(setting, cells)}, ours"}
    ]
    if in_table["paper"].notna().any():
        label = f"{setting.table.data}, paper"
        keys.append({"marker": "o", "mfc": "none", "color": PAPER, "label": label})
    keys.append({"marker": "x", "color": "black", "label": "diverged"})
    keys += [
        {"linestyle": "-", "color": BASELINE, "label": f"{name}, ours"} for name in below.index
    ]
    handles = [Line2D([], [], **{"linestyle": "", **key}) for key in keys]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
    return figure
