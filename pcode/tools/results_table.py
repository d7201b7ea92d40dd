"""Runs that differ in nothing but the seed as groups, and their figures as a table and as CSV."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from pcode.config.parser import COMPONENTS, all_flags
from pcode.tools.results_runs import FIGURES, FINISHED, LATE_EPOCHS, METRICS, OF_METRIC
from pcode.utils.files import printable

# A short name begins with components, whose values need no flag's name; then comes the number.
COMPONENT_FLAGS = [component.flag for component in reversed(COMPONENTS)]
NUM_NODES = "n_mpi_process"
# Headings of the columns of text.
LEFT = frozenset(("run", "graph", "optimizer", "compressor", "ended"))

Text = Callable[[float], str]
# How a mean and its deviation are written.
How = tuple[Text] | tuple[Text, Text]


def group_runs(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Split runs by data set, as figures of different data sets do not compare, and group them.

    They get more columns: `compared`, of their flags those by which runs are compared; `group`,
    the same for runs that differ in nothing but the seed; `run`, a few words that tell the group
    from the others; `is_last`, whether it is the last finished run of its seed, or else the last;
    `is_counted`, whether its figures are averaged: those of the last runs that finished, or of all
    last ones where none has.
    """
    names = [name for name, flag in all_flags().items() if flag.compared]
    compared = [{name: flags[name] for name in names if name in flags} for flags in runs["flags"]]
    runs = runs.assign(compared=compared, group=list(map(repr, compared)))
    finished = runs["state"] == FINISHED
    by_state = runs.assign(finished=finished).sort_values("finished", kind="stable")
    is_last = ~by_state.duplicated(["group", "manual_seed"], keep="last").sort_index()
    any_finished = (is_last & finished).groupby(runs["group"]).transform("any")
    runs = runs.assign(is_last=is_last, is_counted=is_last & (finished | ~any_finished))
    return {str(data): _named(of_data) for data, of_data in runs.groupby("data", sort=False)}


def groups_of(runs: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the groups of one data set, in the order of their first runs."""
    return [group for _, group in runs.groupby("group", sort=False)]


def title(group: pd.DataFrame) -> str:
    """Return the group's name and, where there are several, how many of its seeds count."""
    num_runs, num_counted = group["is_last"].sum(), group["is_counted"].sum()
    name: str = group["run"].iloc[0]
    count = f"{num_runs} seeds" if num_runs == num_counted else f"{num_counted} of {num_runs}"
    return f"{name} ({count})" if num_runs > 1 else name


def _named(runs: pd.DataFrame) -> pd.DataFrame:
    """Name each group: its experiment, and the flags that tell it from others of that."""
    firsts, experiments = runs.drop_duplicates("group"), runs["experiment"].astype(str)
    names: dict[str, str] = {}
    for experiment, groups in firsts.groupby(experiments, sort=False):
        telling = _telling_flags(list(groups["compared"]))
        for group, flags in zip(groups["group"], groups["compared"], strict=True):
            parts = [_flag_text(name, flags[name]) for name in telling if name in flags]
            if not parts or experiments.nunique() > 1:
                parts.insert(0, str(experiment))
            names[group] = ", ".join(parts)
    return runs.assign(run=runs["group"].map(names))


def _telling_flags(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the flags that split what has the same name so far.

    They are taken components first, then the number of nodes, then as in the configuration.
    """
    names = dict.fromkeys(name for flags in settings for name in flags)
    # Another flag is the reason why one matters in some only: that one is to be named.
    everywhere = [name for name in names if all(name in flags for flags in settings)]
    order = dict.fromkeys([*COMPONENT_FLAGS, NUM_NODES, *everywhere, *names])
    chosen: list[str] = []

    def num_distinct(by: Sequence[str]) -> int:
        return len({tuple(repr(flags.get(name)) for name in by) for flags in settings})

    for name in order:
        if num_distinct([*chosen, name]) > num_distinct(chosen):
            chosen.append(name)
    return chosen


def _flag_text(name: str, value: Any) -> str:
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    if name == NUM_NODES:
        return f"{shown} nodes"
    return shown if name in COMPONENT_FLAGS else f"{name} {shown}"


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
        return "-"
    shown = mean(known.mean())
    return f"{shown} ± {deviation(known.std())}" if deviation and len(known) > 1 else shown


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
    late = f"worst node, last {LATE_EPOCHS} epochs"
    headings = (metric.label, "worst node", "averaged model", "best", late)
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


def _cell(value: object) -> object:
    """Return a value as a spreadsheet takes it for a number or for text, but for no formula."""
    if isinstance(value, int | float):
        return value
    text = printable(str(value))
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


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
    named = [*identity.split(), "compressor", "exit_reason"]
    cells = {name: runs[name].map(_cell) for name in named} | of_metric
    shown = [*named[:-1], *of_metric, *others, "exit_reason"]
    text: str = runs.assign(**cells)[shown].to_csv(index=False, lineterminator="\n")
    return text
