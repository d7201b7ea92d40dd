"""The figures of runs as text: a table with a row a group, Markdown, and CSV with a row a run."""

from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pcode.tools.results_groups import Group
from pcode.tools.results_runs import METRICS, Figures, Metric, Run

Number = Callable[[float], str]
MISSING = "-"
# Of Figures, those whose names in CSV say the metric.
OF_METRIC = {"test": "", "worst": "worst_", "averaged": "averaged_model_", "best": "best_"}


def bytes_text(number: float) -> str:
    """Three digits and a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB" if number < 999.5 else f"{number:,.0f} TB"


def seconds_text(seconds: float) -> str:
    """As long a unit as suits it."""
    if seconds < 99.95:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{seconds / 60:.3g} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _digits(number: float) -> str:
    return f"{number:.3g}"


def _percent(number: float) -> str:
    return f"{number:.2f}"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"


def _epochs(number: float) -> str:
    return f"{number:.4g}"


def _deviation(number: float) -> str:
    return f"{number:.2g}"


def _mean(group: Group, name: str, text: Number, deviation: Number | None = None) -> str:
    """Over the group's runs in which it is known; deviation: that of a sample, over seeds."""
    found = [getattr(run.figures, name) for run in group.counted]
    known = [value for value in found if value is not None]
    if not known:
        return MISSING
    shown = text(statistics.fmean(known))
    if deviation is not None and len(known) > 1:
        shown += f" ± {deviation(statistics.stdev(known))}"
    return shown


def _endings(group: Group) -> str:
    """How the runs ended, each seed's last."""
    states = [run.state for run in group.last_of_each_seed]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    if len(counts) == 1:
        return states[0]
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def table(groups: Sequence[Group]) -> list[list[str]]:
    """Headings and a row for each group of one data set; means over seeds, ± their deviation."""
    metric = next((group.metric for group in groups if group.metric is not None), METRICS[0])
    of_metric = (_percent, _percent) if metric.higher_is_better else (_digits, _deviation)
    headings = [
        *("run", "nodes", "graph", "optimizer", "compressor", "epochs"),
        *(metric.label, "worst node", "averaged model", "best", "consensus distance"),
        *("sent a step and node", "sent in all", "ms a step", "training time", "ended"),
    ]
    rows = [headings]
    for group in groups:
        first = group.counted[0]
        row = [
            group.title,
            *(str(first.flags[name]) for name in ("n_mpi_process", "graph_topology", "optimizer")),
            first.compressor,
            _mean(group, "num_epochs", _epochs),
            *(_mean(group, name, *of_metric) for name in OF_METRIC),
            _mean(group, "consensus_distance", _digits, _deviation),
            _mean(group, "bytes_per_step", bytes_text),
            _mean(group, "bytes_total", bytes_text),
            _mean(group, "step_seconds", _milliseconds),
            _mean(group, "training_seconds", seconds_text),
            _endings(group),
        ]
        rows.append(row)
    return rows


LEFT = frozenset(("run", "graph", "optimizer", "compressor", "ended"))


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines for a terminal: names on the left of their columns, figures on the right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(
            cell.ljust(width) if heading in LEFT else cell.rjust(width)
            for cell, width, heading in zip(row, widths, rows[0], strict=True)
        ).rstrip()
        for row in rows
    ]


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    rule = ["---" if heading in LEFT else "---:" for heading in rows[0]]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return [lines[0], "|" + "|".join(rule) + "|", *lines[1:]]


def _csv_row(group: Group, run: Run, metrics: Iterable[Metric]) -> dict[str, Any]:
    flags, figures = run.flags, dataclasses.asdict(run.figures)
    row: dict[str, Any] = {
        "folder": run.folder,
        "run": group.label,
        "data": flags["data"],
        "arch": flags["arch"],
        "experiment": flags["experiment"],
        "manual_seed": flags["manual_seed"],
        "num_nodes": flags["n_mpi_process"],
        "graph_topology": flags["graph_topology"],
        "optimizer": flags["optimizer"],
        "compressor": run.compressor,
    }
    for metric in metrics:
        for name, prefix in OF_METRIC.items():
            row[f"{prefix}test_{metric.name}"] = figures[name] if run.metric == metric else None
    others = [field.name for field in dataclasses.fields(Figures) if field.name not in OF_METRIC]
    return row | {name: figures[name] for name in others} | {"exit_reason": run.ending}


def csv_text(by_data: Mapping[str, Sequence[Group]]) -> str:
    """A row for each run, with raw numbers; what is not known is empty.

    Bytes are those of one node for bytes_per_step and of all nodes for bytes_total.
    """
    groups = [group for each in by_data.values() for group in each]
    met = {run.metric for group in groups for run in group.runs}
    metrics = [metric for metric in METRICS if metric in met]
    rows = [_csv_row(group, run, metrics) for group in groups for run in group.runs]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
