"""From where a run starts: the beginning, a checkpoint of its own, or another run's models."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pcode.config import Config, config_of_run
from pcode.config.options import AUTO
from pcode.config.parser import all_flags
from pcode.schedules import SCHEMES
from pcode.topology import Graph
from pcode.training.checkpoint import (
    Manifest,
    graph_digest,
    last_step,
    read_manifest,
    read_node,
    saved_steps,
)
from pcode.training.records import SUMMARY, check_contents, is_locked, taken
from pcode.utils.errors import TakenError, UserError
from pcode.utils.layout import Layout

# The run that a launcher has found for --resume auto: its ranks are not to find another.
FOUND_VARIABLE = "PCODE_FOUND"
# A run's last checkpoint, and whether it has ended.
Standing = tuple[int | None, bool]


@dataclass(frozen=True)
class ResumePoint:
    """The run that one goes on from.

    Attributes:
        run: its folder.
        manifest: of the checkpoint; None where there is none yet, and all is done again.
        same: it is this run, which goes on in its folder to the same bits. Otherwise this is a
            new run, in a folder of its own, that starts from the other's models.
        averaged: the nodes, the graph or the optimizer are others: every node starts from the mean
            of the models. Otherwise each starts from its own, with all that it keeps.
        standing: of the run when it was found; it is another once somebody else has trained it.
        origin: --resume and --checkpoint_index of the run that goes on: with what it began.
    """

    run: Path
    manifest: Manifest | None
    same: bool
    standing: Standing
    averaged: bool = False
    origin: tuple[str | None, int | None] = (None, None)

    def __str__(self) -> str:
        if self.manifest is None:
            return f"{self.run} has no checkpoint: it begins again"
        where = f"step {self.manifest.step} (epoch {self.manifest.epoch:g}) of {self.run}"
        if self.same:
            return f"resumed after {where}"
        models = "its own model"
        if self.averaged:
            models = (
                f"the mean of {self.manifest.num_nodes} models; copies of neighbours are "
                "resynchronised by one exchange"
            )
        return f"a new run from {where}, whose flags differ: every node goes on from {models}"

    @property
    def is_taken(self) -> bool:
        """Whether another process has trained the run since it was found."""
        return standing_of(self.run) != self.standing

    def state(self, rank: int, layout: Layout) -> dict[str, Any]:
        """Return what the node of that rank starts from: its own state, or the mean of all.

        Raises:
            UserError: a file is damaged or does not fit.
        """
        assert self.manifest is not None, "it begins again"
        ranks = range(self.manifest.num_nodes) if self.averaged else (rank,)
        return _mean_state(read_node(self.run, self.manifest, each, layout) for each in ranks)


def decisive_flags(config: Config) -> dict[str, Any]:
    """Return the flags that decide what numbers a run gives, up to any step.

    Of launching that is the number of nodes and of their processes alone; of watching none.
    """
    free = {name for name, flag in all_flags().items() if not flag.decides}
    free |= {*vars(config.launch), *vars(config.watch)} - {"n_mpi_process", "n_sub_process"}
    if SCHEMES[config.learning.lr_schedule_scheme].follows_the_end:
        free -= {"num_epochs", "num_iterations"}
    return {name: value for name, value in config.flat().items() if name not in free}


def standing_of(run: Path) -> Standing:
    return last_step(run), (run / SUMMARY).exists()


def find_resume_point(
    config: Config, runs: Path, graph: Graph, steps_per_epoch: int, note: Callable[[str], object]
) -> ResumePoint | None:
    """Return what `--resume` asks for, or None where the run begins at the beginning.

    Args:
        config: with what was left to the run filled in.
        runs: the folder of the experiment's runs.
        graph, steps_per_epoch: of this run.
        note: called with a line for each run that `--resume auto` cannot read.

    Raises:
        UserError: there is no such run or checkpoint, or it is damaged.
        TakenError: it is under way, or what a launcher has found has ended since.
    """
    watch = config.watch
    if watch.resume is None:
        return None
    name = os.environ.get(FOUND_VARIABLE, AUTO) if watch.resume == AUTO else watch.resume
    while True:
        run = _last_unfinished(config, runs, note) if name == AUTO else Path(name)
        if run is None:
            return None
        standing = standing_of(run)
        try:
            if is_locked(run) or (watch.resume == AUTO and standing[1]):
                raise taken(run)
            return _resume_point(config, run, standing, graph, steps_per_epoch)
        except UserError as error:
            # Its files change while somebody trains it, who may have begun since.
            is_taken = isinstance(error, TakenError) or is_locked(run)
            is_taken = is_taken or standing_of(run) != standing
            if is_taken and name == AUTO:
                continue
            raise (taken(run) if is_taken else error) from None


def _resume_point(
    config: Config, run: Path, standing: Standing, graph: Graph, steps_per_epoch: int
) -> ResumePoint:
    """Return how a run with this configuration goes on from that one."""
    watch, before = config.watch, config_of_run(run)
    check_contents(run)
    same = decisive_flags(before) == decisive_flags(config)
    step = _step(run, watch.checkpoint_index)
    origin = before.watch.resume, before.watch.checkpoint_index
    if step is None:
        if not same:
            raise UserError(f"--resume {run}: it has no checkpoint, and its flags differ")
        return ResumePoint(run, None, same=True, standing=standing, origin=origin)
    manifest = read_manifest(run, step)
    own = tuple(map(str, range(config.launch.n_mpi_process)))
    same_nodes = manifest.folders == own and manifest.graph == graph_digest(graph)
    same_optimizer = before.learning.optimizer == config.learning.optimizer
    same = same and same_nodes and manifest.steps_per_epoch == steps_per_epoch
    averaged = not (same_nodes and same_optimizer)
    return ResumePoint(run, manifest, same, standing, averaged, origin)


def _last_unfinished(config: Config, runs: Path, note: Callable[[str], object]) -> Path | None:
    """Return the newest run of this experiment with these flags that has not ended."""
    found: list[tuple[float, Path]] = []
    gone_on: set[Path] = set()  # runs from which others began
    for file in runs.glob("*/config.yaml"):
        run = file.parent
        try:
            its_own = config_of_run(run)
        except UserError as error:
            note(f"--resume auto leaves out a run: {error}")
            continue
        if its_own.watch.resume is not None:
            gone_on.add(Path(its_own.watch.resume).resolve())
        ended = (run / SUMMARY).exists() or is_locked(run)
        if not ended and decisive_flags(its_own) == decisive_flags(config):
            found.append((file.stat().st_mtime, run))
    left = [(when, run) for when, run in found if run.resolve() not in gone_on]
    return max(left)[1] if left else None


def _step(run: Path, epoch: int | None) -> int | None:
    """Return the step of the checkpoint asked for; None: there is none yet."""
    if epoch is None:
        return last_step(run)
    manifests = [read_manifest(run, step) for step in saved_steps(run)]
    saved = {manifest.epoch: manifest.step for manifest in manifests}
    if epoch not in saved:
        there = ", ".join(f"{each:g}" for each in sorted(saved)) or "none"
        raise UserError(
            f"--checkpoint_index {epoch}: {run} has no checkpoint after that epoch; there are: "
            f"{there} (--save_all_models True keeps all)"
        )
    return saved[epoch]


def _mean_state(states: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Return the first state, with the mean of all in what is floating point.

    Without the optimizer's vectors that only some have, or in another size: those of neighbours.
    """
    mean = next(states)
    count, vectors = 1, mean["optimizer"]["vectors"]
    for state in states:
        count += 1
        others = state["optimizer"]["vectors"]
        for name in [*vectors]:
            if name not in others or others[name].shape != vectors[name].shape:
                del vectors[name]
        for name in others.keys() - vectors.keys():
            del others[name]
        for total, tensor in zip(_tensors(mean), _tensors(state), strict=True):
            total.add_(tensor)
    for total in _tensors(mean):
        total.div_(count)
    return mean


def _tensors(state: dict[str, Any]) -> list[torch.Tensor]:
    parts = (state["buffers"], state["optimizer"]["vectors"])
    tensors = [state["x"], *(tensor for part in parts for tensor in part.values())]
    return [tensor for tensor in tensors if tensor.is_floating_point()]
