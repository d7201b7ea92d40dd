"""A table of the paper as text: ours beside the paper's."""

from __future__ import annotations

import statistics

from pcode.tools.reproduce_runs import Results, Setting
from pcode.tools.reproduce_tables import Cell, PaperFigure


def ours(results: Results, cell: Cell) -> str:
    """Mean and standard deviation of the runs that did not diverge, and how many did."""
    figures, ended = results.figures[cell], results.ended(cell)
    if not figures:
        return "failed"
    if not ended:
        return "div"
    mean = f"{statistics.mean(ended):.2f}"
    if len(ended) > 1:
        mean += f" ± {statistics.stdev(ended):.2f}"
    lost = results.num_diverged(cell)
    return mean + (f" ({lost} of {len(figures)} div)" if lost else "")


def paper(figure: PaperFigure) -> str:
    """The paper's figure; nothing where it prints none."""
    if figure is None:
        return ""
    return figure if isinstance(figure, str) else f"{figure:.2f}"


def data_sets(setting: Setting, results: Results) -> str:
    """What ours were measured on."""
    names = [setting.config(cell, setting.seeds.start).data.data for cell in results.figures]
    return " and ".join(dict.fromkeys(names))


def caption(setting: Setting, results: Results) -> str:
    """How ours were measured."""
    configs = [setting.config(cell, setting.seeds.start) for cell in results.figures]
    models = dict.fromkeys(f"{config.model.arch} on {config.data.data}" for config in configs)
    epochs = sorted({config.learning.num_epochs for config in configs})
    runs = "1 run" if len(setting.seeds) == 1 else f"{len(setting.seeds)} runs"
    return f"{' and '.join(models)}, {' or '.join(map(str, epochs))} epochs, {runs}"


def markdown(setting: Setting, results: Results) -> str:
    """The cells that were run, the paper's figure beside ours."""
    in_table = [cell for cell in results.figures if cell.row is not None]
    lines: list[str] = []
    if in_table:
        lines += [*_grid(results, in_table), ""]
    below = [
        f"{cell.column}: {ours(results, cell)} (paper {paper(cell.paper)})."
        for cell in results.figures
        if cell.row is None
    ]
    table = setting.table
    numbers = f"Ours: {caption(setting, results)}; the paper's: {table.models} on {table.data}."
    lines.append(" ".join([*below, numbers, *([table.note] if table.note else [])]))
    return "\n".join(lines) + "\n"


def _grid(results: Results, cells: list[Cell]) -> list[str]:
    """The lines of the table proper."""
    places = {(cell.row, cell.column): cell for cell in cells}
    columns = list(dict.fromkeys(cell.column for cell in cells))
    # a column for the paper's figures only where it prints some
    printed = {
        column: any(c.paper is not None for c in cells if c.column == column) for column in columns
    }
    heads = [head for column in columns for head in (column, *(["paper"] * printed[column]))]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for row in dict.fromkeys(cell.row for cell in cells):
        entries = [str(row)]
        for column in columns:
            cell = places.get((row, column))
            entries.append(ours(results, cell) if cell else "")
            entries += [paper(cell.paper) if cell else ""] * printed[column]
        lines.append("| " + " | ".join(entries) + " |")
    return lines
