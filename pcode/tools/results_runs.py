"""Runs as a table: a row for each run, read from its folder."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pandas as pd

from pcode.compression import COMPRESSORS
from pcode.config.files import RUN_CONFIG, read_run_flags
from pcode.config.parser import all_flags, make_config, why_irrelevant
from pcode.optim import OPTIMIZERS
from pcode.training.tasks import TASKS, Task
from pcode.utils.errors import UserError
from pcode.utils.files import cut, decoded, json_object, printable, read_lines, read_text
from pcode.utils.options import look_up, options_of
from pcode.utils.timing import PARTS

Record = dict[str, Any]

# A summary, and a line of a log: those of 4096 nodes take 300 kB and 2 kB.
MOST_BYTES = 1 << 22
MOST_EVALUATIONS = 100_000  # of a node
MOST_STEPS = 1 << 53
# Folders are looked for runs so far down; a run lies four below --checkpoint.
DEEPEST = 100
LARGEST = 1e300  # of a number, so that means are finite
LONGEST_REASON = 1000
LONGEST_VALUE = 32767  # of a flag: what the cell of a spreadsheet holds
_RANK = re.compile("[0-9]+")

UNFINISHED, DIVERGED, FINISHED = "unfinished", "diverged", "finished"


class Metric(NamedTuple):
    """What a run is judged by: its label, with a unit, and the stem of its pictures' names."""

    task: Task
    label: str
    stem: str


# By its name in records and summaries, behind `test_`.
METRICS = {
    "top1": Metric(TASKS["classification"], "test top-1 (%)", "accuracy"),
    "perplexity": Metric(TASKS["language"], "test perplexity", "perplexity"),
}
# The last epochs over which figures of unequal data are averaged: they go up and down.
LATE_EPOCHS = 5
# The mean over the nodes, the worst node, the mean of the nodes' models, the best mean over the
# nodes, and the worst node on average over the last epochs, which no summary has. Their names in
# files, and in the CSV, end with the metric's.
LATE = "late_worst_test"
OF_METRIC = ("test", "worst_test", "averaged_model_test", "best_test", LATE)
# Bytes are those of one node for bytes_per_step and of all nodes for bytes_total.
FIGURES = (
    *OF_METRIC,
    *("num_epochs", "num_steps", "consensus_distance", "bytes_per_step", "bytes_total"),
    *("step_seconds", "training_seconds"),
)
_IN_SUMMARY = {
    "bytes_per_step": "bytes_sent_per_step",
    "bytes_total": "bytes_sent_total",
    "training_seconds": "train_seconds",
}
_IDENTITY = ("data", "arch", "experiment", "manual_seed", "graph_topology", "optimizer")
_COURSE = (*OF_METRIC[:3], "epoch", "consensus_distance", "bytes_sent", "seconds")
_EVALUATED = ("step", *_COURSE[3:], *(f"{name}_{of}" for of in METRICS for name in _COURSE[:3]))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make a UserError that names the file of what is wrong with its content."""
    try:
        yield
    except (ValueError, LookupError) as error:
        raise UserError(f"{path}: cannot be read: {cut(str(error), LONGEST_REASON)}") from None


def number_of(record: Record, name: str) -> float | None:
    """Return a number of a record; None where it is missing or null."""
    value = record.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not abs(value) <= LARGEST:
        raise ValueError(f"{name} is no number")
    number: float = value
    return number


def _parts(record: Record) -> dict[str, float | None]:
    """Return the seconds of a step that a record holds."""
    parts = record.get("step_seconds") or {}
    if not isinstance(parts, dict):
        raise ValueError("step_seconds is no JSON object")
    return {name: number_of(parts, name) for name in ("total", *PARTS)}


def read_summary(path: Path) -> Record | None:
    """Read a run's summary.json; None: there is none.

    Raises:
        UserError: it cannot be read.
    """
    if not path.exists():
        return None
    with naming(path):
        summary = json_object(read_text(path, MOST_BYTES))
        if not isinstance(summary.get("exit_reason"), str):
            raise ValueError("exit_reason is no text")
    return summary


def _evaluation(record: Record) -> dict[str, float | None]:
    """Return the numbers of a record of an evaluation."""
    numbers = {name: number_of(record, name) for name in _EVALUATED}
    step = numbers["step"]
    if step is None or not 0 <= step <= MOST_STEPS:
        raise ValueError(f"step is no number from 0 to {MOST_STEPS}")
    return numbers


def _read_log(path: Path) -> tuple[pd.DataFrame, dict[str, float | None]]:
    """Read a node's evaluations, by step, and the seconds of a step in its last training record.

    A last line that a killed run left incomplete is left out.
    """
    evaluations: dict[float | None, dict[str, float | None]] = {}
    last: Record = {}
    with naming(path):
        for number, line in enumerate(read_lines(path, MOST_BYTES), start=1):
            try:
                record = json_object(decoded(line))
                if record.get("kind") == "evaluation":
                    numbers = _evaluation(record)
                    # A run that went on from a checkpoint may have evaluated a step again.
                    evaluations.pop(numbers["step"], None)
                    evaluations[numbers["step"]] = numbers
                elif record.get("kind") == "train":
                    last = record
            except ValueError as error:
                if line.endswith(b"\n"):
                    raise ValueError(f"line {number}: {error}") from None
            if len(evaluations) > MOST_EVALUATIONS:
                raise ValueError(f"more than {MOST_EVALUATIONS} evaluations")
        parts = _parts(last)
    found = pd.DataFrame(list(evaluations.values()), columns=list(_EVALUATED), dtype=float)
    return found.set_index("step"), parts


def _read_flags(path: Path) -> dict[str, Any]:
    """Read the flags that matter in a run, with the defaults of those that it did not know."""
    declared = all_flags()
    texts = read_run_flags(str(path), {name: name for name in declared}, others=True)
    # Not checked as a run's flags are: it has run, perhaps on a machine with more than this one.
    flags = make_config().flat()
    with naming(path):
        for name, (text, *_) in texts.items():
            if len(text) > LONGEST_VALUE:
                raise ValueError(f"--{name}: longer than {LONGEST_VALUE} characters")
            flags[name] = declared[name].parse(text)
        look_up("optimizer", flags["optimizer"], OPTIMIZERS)
        look_up("comm_op", flags["comm_op"], COMPRESSORS)
        for name in ("n_mpi_process", "manual_seed"):
            declared[name].validate(flags[name])
        for name in why_irrelevant(flags, flags):
            del flags[name]
    return flags


def _fail(error: UserError) -> NoReturn:
    raise error


def find_runs(
    places: Iterable[Path], report: Callable[[UserError], object] = _fail
) -> pd.DataFrame:
    """Read every run in or below the folders, in the order of their paths, each once, into a row.

    Columns are `folder`; `flags` (those that matter in it), and of these data, arch, experiment,
    manual_seed, num_nodes, graph_topology and optimizer; `compressor` with its flags; `metric` (of
    METRICS; None where nothing was evaluated); FIGURES, as they are in the files (None: not known);
    `exit_reason`, and `state`, its first word; `course`, the evaluations that the first node has
    recorded, by step (_COURSE; bytes_sent is the mean over the nodes); `step_parts`, seconds of a
    step by part (PARTS) and in `total`. All text but that of `folder` is printable.

    Args:
        places: folders.
        report: is called with what is wrong with each run that cannot be read.

    Raises:
        UserError: a place without a run, or no run can be read; what is wrong with the last.
    """
    found: dict[Path, None] = {}
    for place in places:
        if not os.path.isdir(place):
            raise UserError(f"{place}: no such folder")
        configs = sorted(_configs(place))
        if not configs:
            raise UserError(f"{place}: no run in it (no config.yaml)")
        found.update(dict.fromkeys(path.parent.resolve() for path in configs))
    rows, unread = [], []
    for folder in found:
        try:
            rows.append(_read_run(folder))
        except UserError as error:
            unread.append(error)
    last = None if rows else unread.pop()
    for each in unread:
        report(each)
    if last is not None:
        raise last
    # Objects: whole numbers stay whole beside unknown ones.
    return pd.DataFrame(rows, dtype=object)


def _configs(place: Path) -> Iterator[Path]:
    """Yield what is called config.yaml in a folder or below, not in folders of folders without end.

    Links to folders are not followed.
    """
    above = len(place.parts)
    for name, folders, files in os.walk(place):
        folder = Path(name)
        if RUN_CONFIG in (*folders, *files):
            yield folder / RUN_CONFIG
        if len(folder.parts) - above >= DEEPEST:
            folders.clear()


def _read_run(folder: Path) -> dict[str, Any]:
    flags = _read_flags(folder / RUN_CONFIG)
    places = [path for path in folder.glob("*/log.jsonl") if _RANK.fullmatch(path.parent.name)]
    logs = [_read_log(path) for path in sorted(places, key=lambda path: int(path.parent.name))]
    path = folder / "summary.json"
    summary = read_summary(path)
    evaluations = [evaluated for evaluated, _ in logs]
    recorded = {name for each in evaluations for name in each.columns[each.notna().any()]}
    recorded |= summary.keys() if summary is not None else set()
    metric = next((name for name in METRICS if f"test_{name}" in recorded), None)
    course = _course(evaluations, metric)
    if summary is None:
        parts, ending = [parts for _, parts in logs], UNFINISHED
        figures = _figures_so_far(course, metric, flags["n_mpi_process"])
    else:
        with naming(path):
            parts, ending = [_parts(summary)], printable(summary["exit_reason"])
            names = [name for name in FIGURES if name not in ("step_seconds", LATE)]
            fields = {name: _field(_IN_SUMMARY.get(name, name), metric) for name in names}
            figures = {name: number_of(summary, field) for name, field in fields.items()}
    step_parts = _mean_parts(parts)
    return {
        "folder": folder,
        "flags": flags,
        **{name: flags[name] for name in _IDENTITY},
        "num_nodes": flags["n_mpi_process"],
        "compressor": _compressor(flags),
        "metric": metric,
        **figures,
        LATE: _late(course),
        "step_seconds": step_parts.get("total"),
        "exit_reason": cut(ending, LONGEST_REASON),
        "state": cut(ending.partition(":")[0], LONGEST_REASON),
        "course": course,
        "step_parts": step_parts,
    }


def _field(name: str, metric: str | None) -> str:
    """Name a figure as files do."""
    return f"{name}_{metric}" if name in OF_METRIC else name


def _compressor(flags: Mapping[str, Any]) -> str:
    """Name the compressor, with what its flags ask for, or none."""
    name = flags.get("comm_op", "none")
    own = [flag for flag in options_of(COMPRESSORS[name]) if flag in flags and flag != "is_biased"]
    unbiased = ["unbiased"] if flags.get("is_biased") is False else []
    return " ".join([name, *(str(flags[flag]) for flag in own), *unbiased])


def _course(evaluations: Sequence[pd.DataFrame], metric: str | None) -> pd.DataFrame:
    """Tabulate evaluations by step, with the bytes that a node has sent.

    They are those of the node that has the last one, as nodes may have been lost.
    """
    if metric is None or not evaluations:
        return pd.DataFrame(columns=list(_COURSE), dtype=float)
    names = {_field(name, metric): name for name in _COURSE}
    longest = max(evaluations, key=lambda each: each.index.max() if len(each) else -1)
    course = longest.rename(columns=names)[list(_COURSE)]
    sent = [each["bytes_sent"].reindex(course.index) for each in evaluations]
    return course.assign(bytes_sent=pd.concat(sent, axis=1).mean(axis=1))


def _figures_so_far(course: pd.DataFrame, metric: str | None, num_nodes: int) -> dict[str, Any]:
    """Take the figures of an unfinished run from its last evaluation."""
    if metric is None or course.empty:
        return dict.fromkeys(FIGURES)
    last, step = course.iloc[-1], course.index[-1]
    tests = course["test"].dropna()
    known: dict[str, Any] = {
        **{name: last[name] for name in (*OF_METRIC[:3], "consensus_distance")},
        "best_test": reduce(METRICS[metric].task.best, tests) if len(tests) else None,
        "num_epochs": last["epoch"],
        "num_steps": int(step),
        "bytes_per_step": last["bytes_sent"] / step if step else None,
        "bytes_total": last["bytes_sent"] * num_nodes,
        "training_seconds": last["seconds"],
    }
    return {name: None if pd.isna(value) else value for name, value in known.items()}


def _late(course: pd.DataFrame) -> float | None:
    """Return the worst node's figure, mean over the evaluations of the last epochs."""
    worst = course.dropna(subset=["worst_test", "epoch"])
    late = worst.loc[worst["epoch"] > worst["epoch"].max() - LATE_EPOCHS, "worst_test"]
    return float(late.mean()) if len(late) else None


def _mean_parts(of_nodes: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """Return seconds of a step, mean over the nodes; nothing where no time was measured."""
    mean = pd.DataFrame(of_nodes, columns=["total", *PARTS], dtype=float).mean().dropna()
    return mean.to_dict() if "total" in mean else {}
