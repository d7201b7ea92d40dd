"""A run as its folder tells it: flags, figures, the course of the training."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from pcode.compression import COMPRESSORS
from pcode.tools.results_files import Record, read_flags, read_json, read_log
from pcode.training.tasks import TASKS, Task
from pcode.utils.errors import UserError
from pcode.utils.options import options_of
from pcode.utils.timing import PARTS

UNFINISHED, DIVERGED, FINISHED = "unfinished", "diverged", "finished"


@dataclass(frozen=True)
class Metric:
    """What a run is judged by.

    Attributes:
        task: what the model was trained for.
        label: with its unit, for axes and headings.
        stem: of the pictures' names.
    """

    task: Task
    label: str
    stem: str

    @property
    def name(self) -> str:
        """In records and summaries, behind `test_`."""
        return self.task.metric

    @property
    def higher_is_better(self) -> bool:
        return self.task.higher_is_better


METRICS = (
    Metric(TASKS["classification"], "test top-1 (%)", "accuracy"),
    Metric(TASKS["language"], "test perplexity", "perplexity"),
)


@dataclass(frozen=True)
class Point:
    """One evaluation; None: not recorded.

    Attributes:
        test: mean over the nodes.
        bytes_sent: by a node so far, mean over the nodes.
        seconds: of training, since the start.
    """

    step: int
    epoch: float | None
    test: float | None
    worst: float | None
    averaged: float | None
    consensus_distance: float | None
    bytes_sent: float | None
    seconds: float | None


@dataclass(frozen=True)
class Figures:
    """What the table shows of a run; None: not known.

    Attributes:
        test: mean over the nodes, at the end; worst: of the worst node; averaged: of the mean of
            the nodes' models; best: the best mean over the nodes.
        bytes_per_step: of one node; bytes_total: of all nodes.
        step_seconds: mean over nodes and steps; training_seconds: of the whole training.
    """

    num_epochs: float | None
    num_steps: float | None
    test: float | None
    worst: float | None
    averaged: float | None
    best: float | None
    consensus_distance: float | None
    bytes_per_step: float | None
    bytes_total: float | None
    step_seconds: float | None
    training_seconds: float | None


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        flags: those that can matter in it.
        metric: None where nothing was evaluated.
        points: its evaluations, in order.
        step_parts: seconds of a step by part (PARTS), mean over the nodes.
        ending: the summary's exit_reason, or UNFINISHED.
    """

    folder: Path
    flags: Mapping[str, Any]
    metric: Metric | None
    points: tuple[Point, ...]
    figures: Figures
    step_parts: Mapping[str, float] | None
    ending: str

    @property
    def seed(self) -> int:
        return int(self.flags["manual_seed"])

    @property
    def state(self) -> str:
        """`ending` in a word."""
        return self.ending.partition(":")[0]

    @property
    def compressor(self) -> str:
        """Its name and what its flags ask for, or none."""
        name = self.flags.get("comm_op", "none")
        values = [
            f"{self.flags[flag]}"
            for flag in options_of(COMPRESSORS[name])
            if flag in self.flags and flag != "is_biased"
        ]
        if self.flags.get("is_biased") is False:
            values.append("unbiased")
        return " ".join([name, *values])


def find_runs(places: Iterable[Path]) -> list[Run]:
    """Every run in or below the folders, in the order of their paths; each once.

    Raises:
        UserError: a place without a run, or a file of a run that cannot be read.
    """
    found: dict[Path, None] = {}
    for place in places:
        if not place.is_dir():
            raise UserError(f"{place}: no such folder")
        configs = sorted(place.rglob("config.yaml"))
        if not configs:
            raise UserError(f"{place}: no run in it (no config.yaml)")
        found.update(dict.fromkeys(path.parent.resolve() for path in configs))
    return [read_run(folder) for folder in found]


def read_run(folder: Path) -> Run:
    """A run from its folder.

    Raises:
        UserError: a file cannot be read; it is named.
    """
    flags = read_flags(folder / "config.yaml")
    logs = [read_log(path) for path in _log_files(folder)]
    path = folder / "summary.json"
    summary = Record(read_json(path), path) if path.exists() else None
    records = [record for log in logs for record in log if record.kind == "evaluation"]
    metric = _metric([*records, *([summary] if summary is not None else [])])
    points = _points(logs, metric)
    ending = UNFINISHED if summary is None else summary.text("exit_reason")
    return Run(
        folder=folder,
        flags=flags,
        metric=metric,
        points=points,
        figures=_figures(summary, points, logs, metric, int(flags["n_mpi_process"])),
        step_parts=_step_parts(summary, logs),
        ending=ending,
    )


def _log_files(folder: Path) -> list[Path]:
    files = [path for path in folder.glob("*/log.jsonl") if path.parent.name.isdigit()]
    return sorted(files, key=lambda path: int(path.parent.name))


def _metric(records: Iterable[Record]) -> Metric | None:
    names = {name for record in records for name in record.content}
    return next((each for each in METRICS if f"test_{each.name}" in names), None)


def _mean(values: Iterable[float | None]) -> float | None:
    """Of what is known."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _points(logs: Sequence[Sequence[Record]], metric: Metric | None) -> tuple[Point, ...]:
    """The evaluations that the first node has recorded."""
    if metric is None or not logs:
        return ()
    sent: dict[float | None, list[float | None]] = {}
    for log in logs:
        for record in log:
            if record.kind == "evaluation":
                sent.setdefault(record.number("step"), []).append(record.number("bytes_sent"))
    return tuple(
        Point(
            step=int(record.number("step") or 0),
            epoch=record.number("epoch"),
            test=record.number(f"test_{metric.name}"),
            worst=record.number(f"worst_test_{metric.name}"),
            averaged=record.number(f"averaged_model_test_{metric.name}"),
            consensus_distance=record.number("consensus_distance"),
            bytes_sent=_mean(sent[record.number("step")]),
            seconds=record.number("seconds"),
        )
        for record in logs[0]
        if record.kind == "evaluation"
    )


def _figures(
    summary: Record | None,
    points: Sequence[Point],
    logs: Sequence[Sequence[Record]],
    metric: Metric | None,
    num_nodes: int,
) -> Figures:
    if summary is None:
        return _unfinished_figures(points, logs, metric, num_nodes)
    name = None if metric is None else metric.name
    seconds = summary.record("step_seconds")
    return Figures(
        num_epochs=summary.number("num_epochs"),
        num_steps=summary.number("num_steps"),
        test=summary.number(f"test_{name}"),
        worst=summary.number(f"worst_test_{name}"),
        averaged=summary.number(f"averaged_model_test_{name}"),
        best=summary.number(f"best_test_{name}"),
        consensus_distance=summary.number("consensus_distance"),
        bytes_per_step=summary.number("bytes_sent_per_step"),
        bytes_total=summary.number("bytes_sent_total"),
        step_seconds=None if seconds is None else seconds.number("total"),
        training_seconds=summary.number("train_seconds"),
    )


def _unfinished_figures(
    points: Sequence[Point],
    logs: Sequence[Sequence[Record]],
    metric: Metric | None,
    num_nodes: int,
) -> Figures:
    """As of the last evaluation."""
    nothing: dict[str, float | None] = {each.name: None for each in dataclasses.fields(Figures)}
    if metric is None or not points:
        return Figures(**nothing)
    last, sent = points[-1], points[-1].bytes_sent
    tests = [point.test for point in points if point.test is not None]
    known = {
        "num_epochs": last.epoch,
        "num_steps": last.step,
        "test": last.test,
        "worst": last.worst,
        "averaged": last.averaged,
        "best": reduce(metric.task.best, tests) if tests else None,
        "consensus_distance": last.consensus_distance,
        "bytes_per_step": sent / last.step if sent is not None and last.step else None,
        "bytes_total": None if sent is None else sent * num_nodes,
        "step_seconds": (_step_parts(None, logs) or {}).get("total"),
        "training_seconds": last.seconds,
    }
    return Figures(**nothing | known)


def _step_parts(
    summary: Record | None, logs: Sequence[Sequence[Record]]
) -> dict[str, float] | None:
    """Seconds of a step, total and parts; of an unfinished run from each node's last record."""
    if summary is not None:
        found = [summary.record("step_seconds")]
    else:
        lasts = [[each for each in log if each.kind == "train"][-1:] for log in logs]
        found = [record.record("step_seconds") for last in lasts for record in last]
    known = [record for record in found if record is not None]
    parts = {name: _mean(each.number(name) for each in known) for name in ("total", *PARTS)}
    complete = {name: value for name, value in parts.items() if value is not None}
    return complete if "total" in complete else None
