"""Runs as a table: a row for each run, read from its folder."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from pcode.compression import COMPRESSORS
from pcode.config.parser import make_config, why_irrelevant
from pcode.optim import OPTIMIZERS
from pcode.training.tasks import TASKS, Task
from pcode.utils.errors import UserError
from pcode.utils.options import look_up, options_of
from pcode.utils.timing import PARTS

Record = dict[str, Any]

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
# The mean over the nodes, the worst node, the mean of the nodes' models, and the best mean over the
# nodes. Their names in files, and in the CSV, end with the metric's.
OF_METRIC = ("test", "worst_test", "averaged_model_test", "best_test")
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


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read") from error


def _parse(text: str, where: object) -> Record:
    """Parse a JSON object; `where` is named in errors."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: is damaged (no JSON)") from error
    if not isinstance(content, dict):
        raise UserError(f"{where}: is damaged (no JSON object)")
    return content


def read_summary(path: Path) -> Record | None:
    """Read a run's summary.json; None: there is none."""
    if not path.exists():
        return None
    summary = _parse(_read_text(path), path)
    if not isinstance(summary.get("exit_reason"), str):
        raise UserError(f"{path}: is damaged (exit_reason is no text)")
    return summary


def _read_log(path: Path) -> list[Record]:
    """Read a node's records, without a last line that a killed run left incomplete."""
    *lines, rest = _read_text(path).split("\n")
    records = [_parse(line, f"{path}, line {n}") for n, line in enumerate(lines, start=1)]
    with suppress(UserError):
        records.append(_parse(rest, path))
    return records


def _numbers(records: Sequence[Record], fields: Mapping[str, str], where: Path) -> pd.DataFrame:
    """Tabulate numbers (column -> name in the records), None where one is missing or null."""
    if not all(isinstance(each, dict) for each in records):
        raise UserError(f"{where}: is damaged (no JSON object)")
    rows = [{column: each.get(name) for column, name in fields.items()} for each in records]
    for column, value in chain.from_iterable(row.items() for row in rows):
        if value is not None and type(value) not in (int, float):
            raise UserError(f"{where}: is damaged ({fields[column]} is no number)")
    return pd.DataFrame(rows, columns=list(fields), dtype=object)


def _read_flags(path: Path) -> dict[str, Any]:
    """Read the flags that matter in a run, with the defaults of those that it did not know."""
    try:
        content = yaml.safe_load(_read_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is damaged (no YAML)") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: is damaged (no `flag: value` lines)")
    # Not checked as a run's flags are: it has run, perhaps on a machine with more than this one.
    flags = make_config().flat()
    for name in flags.keys() & content.keys():
        value = content[name]
        flags[name] = tuple(value) if isinstance(value, list) else value
    try:
        look_up("optimizer", flags["optimizer"], OPTIMIZERS)
        look_up("comm_op", flags["comm_op"], COMPRESSORS)
        for name in why_irrelevant(flags, flags):
            del flags[name]
        for name in ("n_mpi_process", "manual_seed"):
            flags[name] = int(flags[name])
    except (UserError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is damaged or of another version ({error})") from error
    return flags


def find_runs(places: Iterable[Path]) -> pd.DataFrame:
    """Read every run in or below the folders, in the order of their paths, each once, into a row.

    Columns are `folder`; `flags` (those that matter in it), and of these data, arch, experiment,
    manual_seed, num_nodes, graph_topology and optimizer; `compressor` with its flags; `metric` (of
    METRICS; None where nothing was evaluated); FIGURES, as they are in the files (None: not known);
    `exit_reason`, and `state`, its first word; `course`, the evaluations that the first node has
    recorded, by step (_COURSE; bytes_sent is the mean over the nodes); `step_parts`, seconds of a
    step by part (PARTS) and in `total`. A place without a run, or a file of a run that cannot be
    read, is a UserError.
    """
    found: dict[Path, None] = {}
    for place in places:
        if not place.is_dir():
            raise UserError(f"{place}: no such folder")
        configs = sorted(place.rglob("config.yaml"))
        if not configs:
            raise UserError(f"{place}: no run in it (no config.yaml)")
        found.update(dict.fromkeys(path.parent.resolve() for path in configs))
    # Objects: whole numbers stay whole beside unknown ones.
    return pd.DataFrame([_read_run(folder) for folder in found], dtype=object)


def _read_run(folder: Path) -> dict[str, Any]:
    flags = _read_flags(folder / "config.yaml")
    files = (path for path in folder.glob("*/log.jsonl") if path.parent.name.isdigit())
    logs = {path: _read_log(path) for path in sorted(files, key=lambda log: int(log.parent.name))}
    path = folder / "summary.json"
    summary = read_summary(path)
    evaluations = {log: _of_kind("evaluation", records) for log, records in logs.items()}
    recorded = set(chain(*chain(*evaluations.values()), summary or ()))
    metric = next((name for name in METRICS if f"test_{name}" in recorded), None)
    course = _course(evaluations, metric)
    if summary is None:
        lasts = {log: _of_kind("train", records)[-1:] for log, records in logs.items()}
        parts, ending = _step_parts(lasts), UNFINISHED
        figures = _figures_so_far(course, metric, flags["n_mpi_process"])
    else:
        parts, ending = _step_parts({path: [summary]}), summary["exit_reason"]
        names = [name for name in FIGURES if name != "step_seconds"]
        fields = {name: _field(_IN_SUMMARY.get(name, name), metric) for name in names}
        figures = _numbers([summary], fields, path).iloc[0].to_dict()
    return {
        "folder": folder,
        "flags": flags,
        **{name: flags[name] for name in _IDENTITY},
        "num_nodes": flags["n_mpi_process"],
        "compressor": _compressor(flags),
        "metric": metric,
        **figures,
        "step_seconds": parts.get("total"),
        "exit_reason": ending,
        "state": ending.partition(":")[0],
        "course": course,
        "step_parts": parts,
    }


def _of_kind(kind: str, records: Iterable[Record]) -> list[Record]:
    return [each for each in records if each.get("kind") == kind]


def _field(name: str, metric: str | None) -> str:
    """Name a figure as files do."""
    return f"{name}_{metric}" if name in OF_METRIC else name


def _compressor(flags: Mapping[str, Any]) -> str:
    """Name the compressor, with what its flags ask for, or none."""
    name = flags.get("comm_op", "none")
    own = [flag for flag in options_of(COMPRESSORS[name]) if flag in flags and flag != "is_biased"]
    unbiased = ["unbiased"] if flags.get("is_biased") is False else []
    return " ".join([name, *(str(flags[flag]) for flag in own), *unbiased])


def _course(evaluations: Mapping[Path, Sequence[Record]], metric: str | None) -> pd.DataFrame:
    """Tabulate the evaluations of the first node by step, with the bytes that a node has sent."""
    if metric is None or not evaluations:
        return pd.DataFrame(columns=list(_COURSE), dtype=float)
    fields = {name: _field(name, metric) for name in ("step", *_COURSE)}
    nodes = [
        # A run that went on from a checkpoint may have evaluated a step again.
        _numbers(records, fields, log).astype(float).drop_duplicates("step", keep="last")
        for log, records in evaluations.items()
    ]
    course = nodes[0].set_index("step")
    return course.assign(bytes_sent=pd.concat(nodes).groupby("step")["bytes_sent"].mean())


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


def _step_parts(records: Mapping[Path, Sequence[Record]]) -> dict[str, float]:
    """Return seconds of a step, mean over the nodes; nothing where no time was measured."""
    fields = {name: name for name in ("total", *PARTS)}
    measured = [
        _numbers([each.get("step_seconds") or {} for each in of_file], fields, path)
        for path, of_file in records.items()
    ]
    if not measured:
        return {}
    mean = pd.concat(measured).astype(float).mean().dropna()
    return mean.to_dict() if "total" in mean else {}
