"""A table of the paper as a picture: ours beside the paper's."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pcode.tools.reproduce_runs import Results, Setting
from pcode.tools.reproduce_tables import DIVERGES, Cell
from pcode.tools.reproduce_text import data_sets

OURS, PAPER, BASELINE = "tab:blue", "tab:orange", "tab:gray"
LABELS = {"top1": "test top-1 (%)", "perplexity": "test perplexity"}
ASIDE = 0.12  # of a category's width, so that ours and the paper's do not hide one another
BOTTOM = 0.03  # of a panel's height: where a cross says that a run diverged


def draw(setting: Setting, results: Results, path: Path) -> None:
    """Ours are full, with their deviation, the paper's hollow; a cross: diverged.

    Args:
        path: of a picture; its suffix says of what format.
    """
    mpl.use("Agg")
    if setting.table.panels == "curves":
        figure = _curves(setting, results)
    else:
        figure = _beside(setting, results)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _curves(setting: Setting, results: Results) -> Figure:
    """Ours alone: a curve for each column over the rows, in one panel."""
    cells = list(results.figures)
    columns = list(dict.fromkeys(cell.column for cell in cells))
    rows = list(dict.fromkeys(str(cell.row) for cell in cells))
    figure, panel = plt.subplots(figsize=(6, 4), layout="constrained")
    for column, color, marker in zip(columns, mpl.color_sequences["tab10"], "osD^v", strict=False):
        line = [cell for cell in cells if cell.column == column]
        shown = [cell for cell in line if results.ended(cell)]
        panel.errorbar(
            [rows.index(str(cell.row)) for cell in shown],
            [statistics.mean(results.ended(cell)) for cell in shown],
            [_deviation(results.ended(cell)) for cell in shown],
            color=color,
            marker=marker,
            capsize=3,
            label=column,
        )
        lost = [rows.index(str(cell.row)) for cell in line if results.num_diverged(cell)]
        at_bottom = panel.get_xaxis_transform()
        panel.plot(lost, [BOTTOM] * len(lost), "x", color=color, transform=at_bottom)
    panel.set_xticks(range(len(rows)), rows)
    panel.set_ylabel(f"{data_sets(setting, results)}: {LABELS[cells[0].metric]}")
    panel.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _beside(setting: Setting, results: Results) -> Figure:
    """A panel for each column or each row, the paper's figures beside ours."""
    table = setting.table
    cells = [cell for cell in results.figures if cell.row is not None]
    by_row = table.panels == "row"
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(str(cell.row) if by_row else cell.column, []).append(cell)
    names = list(dict.fromkeys(cell.column if by_row else str(cell.row) for cell in cells))
    below = [cell for cell in results.figures if cell.row is None]
    figure, panels = plt.subplots(
        max(len(groups), 1),
        1,
        figsize=(8, 1 + 2 * max(len(groups), 1)),
        sharex=True,
        sharey=not by_row,
        squeeze=False,
        layout="constrained",
    )
    for (title, group), panel in zip(groups.items(), panels[:, 0], strict=False):
        metric = group[0].metric
        panel.set_ylabel(title if by_row else f"{title}\n{LABELS[metric]}")
        _draw_panel(panel, results, group, names, by_row)
        for cell in below:
            if results.ended(cell):
                panel.axhline(statistics.mean(results.ended(cell)), color=BASELINE, linewidth=1)
        panel.set_ylim(0, 104 if metric == "top1" else None)
        panel.grid(axis="y", alpha=0.3)
    panels[-1, 0].set_xticks(
        range(len(names)),
        names,
        rotation=30 * (len(names) > 5),
        ha="right" if len(names) > 5 else "center",
    )
    panels[-1, 0].set_xlim(-0.6, len(names) - 0.4)
    figure.legend(
        handles=_legend(f"{data_sets(setting, results)}, ours", table.data, cells, below),
        loc="outside upper center",
        ncols=4,
        frameon=False,
    )
    return figure


def _deviation(figures: Sequence[float]) -> float:
    return statistics.stdev(figures) if len(figures) > 1 else 0.0


def _draw_panel(
    panel: Axes, results: Results, cells: Sequence[Cell], names: list[str], by_row: bool
) -> None:
    at_bottom = panel.get_xaxis_transform()
    for cell in cells:
        place = names.index(cell.column if by_row else str(cell.row))
        ended = results.ended(cell)
        left, right = place - ASIDE, place + ASIDE
        if ended:
            mean, error = statistics.mean(ended), _deviation(ended)
            panel.errorbar(left, mean, error, fmt="o", color=OURS, capsize=3)
        if results.num_diverged(cell):
            panel.plot(left, BOTTOM, "x", color=OURS, transform=at_bottom)
        if cell.paper == DIVERGES:
            panel.plot(right, BOTTOM, "x", color=PAPER, transform=at_bottom)
        elif cell.paper is not None:
            panel.plot(right, float(cell.paper), "o", mfc="none", color=PAPER)


def _legend(ours: str, data: str, cells: Sequence[Cell], below: Sequence[Cell]) -> list[Line2D]:
    keys: list[dict[str, Any]] = [{"marker": "o", "color": OURS, "label": ours}]
    if any(cell.paper is not None for cell in cells):
        keys.append({"marker": "o", "mfc": "none", "color": PAPER, "label": f"{data}, paper"})
    keys.append({"marker": "x", "color": "black", "label": "diverged"})
    keys += [{"linestyle": "-", "color": BASELINE, "label": f"{cell.name}, ours"} for cell in below]
    return [Line2D([], [], **{"linestyle": "", **key}) for key in keys]
