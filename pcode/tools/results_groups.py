"""Runs that differ in nothing but the seed, and a short name for each such group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pcode.tools.results_runs import FINISHED, Metric, Run

# Flags that say where a run is or who made it; those that cannot matter are left out besides.
NOT_COMPARED = frozenset(
    "manual_seed checkpoint timestamp data_dir download hostfile python_path mpi_path mpi_env "
    "work_dir user project resume checkpoint_index save_all_models save_some_models "
    "display_tracked_time summary_freq".split()
)
# What a short name of a run tells first; a flag of the second line needs no name.
NAMED_FIRST = ("optimizer", "comm_op", "graph_topology", "n_mpi_process", "arch")
TELL_THEMSELVES = frozenset({"optimizer", "comm_op", "graph_topology", "arch", "backend"})


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed.

    Attributes:
        label: what tells it from the other groups, in a few words.
    """

    label: str
    runs: tuple[Run, ...]

    @cached_property
    def last_of_each_seed(self) -> tuple[Run, ...]:
        """What ran again with the same seed counts once: as it last finished, else as it is."""
        chosen: dict[int, Run] = {}
        for run in self.runs:
            before = chosen.get(run.seed)
            if before is None or before.state != FINISHED or run.state == FINISHED:
                chosen[run.seed] = run
        return tuple(chosen.values())

    @cached_property
    def counted(self) -> tuple[Run, ...]:
        """The runs whose figures are averaged: those that finished, or all if none has."""
        runs = self.last_of_each_seed
        return tuple(run for run in runs if run.state == FINISHED) or runs

    @property
    def metric(self) -> Metric | None:
        return next((run.metric for run in self.runs if run.metric is not None), None)

    @property
    def seeds(self) -> str:
        """How many runs count, where there are several."""
        num_runs, num_counted = len(self.last_of_each_seed), len(self.counted)
        if num_runs == 1:
            return ""
        return f"{num_runs} seeds" if num_runs == num_counted else f"{num_counted} of {num_runs}"

    @property
    def title(self) -> str:
        return f"{self.label} ({self.seeds})" if self.seeds else self.label


def group_runs(runs: Sequence[Run]) -> dict[str, list[Group]]:
    """Groups by data set: figures of different data sets do not compare."""
    by_data: dict[str, list[Run]] = {}
    for run in runs:
        by_data.setdefault(str(run.flags["data"]), []).append(run)
    return {data: _groups(each) for data, each in by_data.items()}


def _groups(runs: Sequence[Run]) -> list[Group]:
    members: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        compared = {name: repr(run.flags[name]) for name in run.flags if name not in NOT_COMPARED}
        members.setdefault(tuple(sorted(compared.items())), []).append(run)
    groups = [tuple(each) for each in members.values()]
    labels = _labels([group[0].flags for group in groups])
    return [Group(label, group) for label, group in zip(labels, groups, strict=True)]


def _labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A short name for each: its experiment, and the flags that tell it from others of that name.

    Flags are taken in the order of NAMED_FIRST, then of the configuration, where they split what
    has the same name so far.
    """
    by_experiment: dict[str, list[Mapping[str, Any]]] = {}
    for flags in settings:
        by_experiment.setdefault(str(flags["experiment"]), []).append(flags)
    telling = {name: _telling_flags(same) for name, same in by_experiment.items()}
    labels = []
    for flags in settings:
        experiment = str(flags["experiment"])
        parts = [_flag_text(name, flags[name]) for name in telling[experiment] if name in flags]
        if not parts or len(by_experiment) > 1:
            parts.insert(0, experiment)
        labels.append(", ".join(parts))
    return labels


def _telling_flags(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The flags to name, in order."""
    names = dict.fromkeys(name for flags in settings for name in flags)
    # Another flag is the reason why one matters in some only: that one is to be named.
    everywhere = [name for name in names if all(name in flags for flags in settings)]
    order = dict.fromkeys([*NAMED_FIRST, *everywhere, *names])
    chosen: list[str] = []

    def told_apart(by: Sequence[str]) -> int:
        return len({tuple(repr(flags.get(name)) for name in by) for flags in settings})

    for name in order:
        if name not in NOT_COMPARED and told_apart([*chosen, name]) > told_apart(chosen):
            chosen.append(name)
    return chosen


def _flag_text(name: str, value: Any) -> str:
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    if name == "n_mpi_process":
        return f"{shown} nodes"
    return shown if name in TELL_THEMSELVES else f"{name} {shown}"
