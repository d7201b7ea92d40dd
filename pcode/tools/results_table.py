"""The figures of runs as text: a table with a row for each group, and CSV with one for each run."""

from collections.abc import Callable, Iterable

import pandas as pd

from pcode.tools.results_groups import groups_of, title
from pcode.tools.results_runs import FIGURES, METRICS, OF_METRIC

Text = Callable[[float], str]
MISSING = "-"
# Headings of the columns of text.
LEFT = frozenset(("run", "graph", "optimizer", "compressor", "ended"))


def bytes_text(number: float) -> str:
    """Write three digits and a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB" if number < 999.5 else f"{number:,.0f} TB"


def seconds_text(seconds: float) -> str:
    """Choose seconds, minutes or hours by the length."""
    if seconds < 99.95:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{seconds / 60:.3g} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def mean_text(values: Iterable[float], mean: Text, deviation: Text | None = None) -> str:
    """Write the mean of what is known, ± the deviation of a sample if that is asked for."""
    known = pd.Series(values, dtype=float).dropna()
    if known.empty:
        return MISSING
    shown = mean(known.mean())
    return f"{shown} ± {deviation(known.std())}" if deviation and len(known) > 1 else shown


# How a mean and its deviation are written.
How = tuple[Text] | tuple[Text, Text]
PERCENT: How = ("{:.2f}".format, "{:.2f}".format)
DIGITS: How = ("{:.3g}".format, "{:.2g}".format)
# Heading -> the figure, and how it is written.
_OTHERS: dict[str, tuple[str, How]] = {
    "consensus distance": ("consensus_distance", DIGITS),
    "sent a step and node": ("bytes_per_step", (bytes_text,)),
    "sent in all": ("bytes_total", (bytes_text,)),
    "ms a step": ("step_seconds", (lambda seconds: f"{1e3 * seconds:.3g}",)),
    "training time": ("training_seconds", (seconds_text,)),
}


def table(runs: pd.DataFrame) -> list[list[str]]:
    """Return headings and a row for each group of one data set's runs: means over the seeds."""
    metric = METRICS[next(iter(runs["metric"].dropna()), next(iter(METRICS)))]
    of_metric = PERCENT if metric.task.higher_is_better else DIGITS
    headings = (metric.label, "worst node", "averaged model", "best")
    columns: dict[str, tuple[str, How]] = {
        "epochs": ("num_epochs", ("{:.4g}".format,)),
        **{head: (name, of_metric) for head, name in zip(headings, OF_METRIC, strict=True)},
        **_OTHERS,
    }
    rows = [["run", "nodes", "graph", "optimizer", "compressor", *columns, "ended"]]
    for group in groups_of(runs):
        counted = group[group["is_counted"]]
        first = counted.iloc[0]
        names = ("num_nodes", "graph_topology", "optimizer", "compressor")
        figures = [mean_text(counted[name], *how) for name, how in columns.values()]
        states = group.loc[group["is_last"], "state"].value_counts(sort=False)
        several = [f"{count} {state}" for state, count in states.items()]
        ended = str(states.index[0]) if len(states) == 1 else ", ".join(several)
        rows.append([title(group), *(str(first[name]) for name in names), *figures, ended])
    return rows


def csv_text(runs: pd.DataFrame) -> str:
    """Write a row for each run, with raw numbers; what is not known is empty."""
    identity = "folder run data arch experiment manual_seed num_nodes graph_topology optimizer"
    met = [name for name in METRICS if (runs["metric"] == name).any()]
    of_metric = {
        f"{name}_{metric}": runs[name].where(runs["metric"] == metric, None)
        for metric in met
        for name in OF_METRIC
    }
    others = [name for name in FIGURES if name not in OF_METRIC]
    shown = [*identity.split(), "compressor", *of_metric, *others, "exit_reason"]
    text: str = runs.assign(**of_metric)[shown].to_csv(index=False, lineterminator="\n")
    return text
