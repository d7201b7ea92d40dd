"""How long a table takes on this machine: a few steps and two evaluations of each of its cells."""

from __future__ import annotations

import dataclasses
import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import torch

from pcode.communication import ProcessCommunicator, Simulation, by_nodes
from pcode.config import Config
from pcode.tools.reproduce_tables import Cell, Setting
from pcode.training.evaluation import evaluate
from pcode.training.node import Node
from pcode.training.plan import Plan
from pcode.training.planning import make_plan
from pcode.utils import tables
from pcode.utils.errors import DivergenceError, UserError

# Kernels are compiled in the first steps.
UNTIMED_STEPS, TIMED_STEPS = 3, 10


class Cost(NamedTuple):
    """What a run takes, all nodes together.

    Attributes:
        step_seconds, evaluation_seconds: of one.
        last_seconds: of the evaluation at the end, of the averaged model and the distance too.
        num_steps, num_evaluations: of the whole run, without that last evaluation.
        num_epochs: of the whole run.
        gpu_bytes: that its process holds, with its context; 0 on CPUs.
    """

    step_seconds: float
    evaluation_seconds: float
    last_seconds: float
    num_steps: int
    num_evaluations: int
    num_epochs: float
    gpu_bytes: float = 0

    @property
    def hours(self) -> float:
        steps = self.num_steps * self.step_seconds
        evaluations = self.num_evaluations * self.evaluation_seconds + self.last_seconds
        return (steps + evaluations) / 3600


def _seconds(plan: Plan, line_up: threading.Barrier) -> list[float]:
    """Return those of a step, of the last evaluation and of another one."""
    launch, watch = plan.config.launch, plan.config.watch

    def node(process: ProcessCommunicator) -> list[tuple[float, float]]:
        communicator = by_nodes(process, launch.n_sub_process, launch.time_limit_seconds)
        own = Node(plan, communicator)
        batches = own.batches_ahead()

        def train(num_steps: int) -> None:
            nonlocal batches
            for _ in range(num_steps):
                if own.optimizer.num_steps % plan.steps_per_epoch == 0:
                    batches = own.batches_ahead()
                own.train_step(batches)
            own.finish()

        def look(averaged: bool, consensus: bool) -> None:
            kinds = {"averaged": averaged, "consensus": consensus}
            evaluate(own.model, own.dataset, communicator, amp=own.amp, **kinds)

        def clocked(work: Callable[[], None]) -> tuple[float, float]:
            """Return when this node began and ended it."""
            communicator.barrier()  # all nodes have ended what was before
            if process.is_first:
                line_up.wait()
            communicator.barrier()
            begin = time.perf_counter()
            work()
            return begin, time.perf_counter()

        train(UNTIMED_STEPS)
        return [
            clocked(lambda: train(TIMED_STEPS)),
            # Before the other, of which there are many: the first one's kernels are not ready yet.
            clocked(lambda: look(averaged=True, consensus=True)),
            clocked(lambda: look(watch.evaluate_avg, watch.evaluate_consensus)),
        ]

    clocks = zip(*Simulation(launch.num_processes).run(node), strict=True)
    # Nodes take turns: the first to begin and the last to end may be any of them.
    step, last, other = (
        max(end for _, end in each) - min(begin for begin, _ in each) for each in clocks
    )
    return [step / TIMED_STEPS, last, other]


def measured(config: Config, line_up: threading.Barrier) -> Cost | None:
    """Measure a run, whose nodes are simulated in this process; None where it diverges.

    Args:
        line_up: of the processes that measure it side by side, which begin everything at once.
    """
    launch, watch = config.launch, config.watch
    torch.set_num_threads(launch.num_threads or 1)
    if launch.on_cuda is None:
        launch = dataclasses.replace(launch, on_cuda=torch.cuda.is_available())
    try:
        plan = make_plan(dataclasses.replace(config, launch=launch))
        step, last, other = _seconds(plan, line_up)
    except BaseException as error:
        line_up.abort()  # the other processes do not wait for this one
        if isinstance(error, DivergenceError | threading.BrokenBarrierError):
            return None
        raise
    num_epochs = plan.num_steps / plan.steps_per_epoch
    # None after the last epoch, where there is the last evaluation.
    due = 0 if watch.train_fast else (plan.num_steps - 1) // plan.steps_per_epoch // watch.eval_freq
    return Cost(step, other, last, plan.num_steps, due, num_epochs)


def _gpu_bytes() -> int:
    """Return what all processes hold of the GPU."""
    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free


def _side_by_side(config: Config, copies: int, line_up: threading.Barrier) -> Cost | None:
    """Measure so many copies of a run at once, each in a new process; return the slowest one's."""
    context = multiprocessing.get_context("spawn")
    before = _gpu_bytes()
    with ProcessPoolExecutor(copies, mp_context=context) as pool:
        runs = [pool.submit(measured, config, line_up) for _ in range(copies)]
        costs = [cost for run in runs if (cost := run.result()) is not None]
        # The processes are still there, with all that torch has ever reserved.
        held = _gpu_bytes() - before
    return max(costs)._replace(gpu_bytes=held / copies) if len(costs) == copies else None


def table_hours(costs: Sequence[Cost], num_seeds: int, jobs: int) -> float:
    """Return how long a run of each, with every seed, takes, `jobs` at a time."""
    hours = [cost.hours for cost in costs] * num_seeds
    return max(*hours, sum(hours) / min(jobs, len(hours))) if hours else 0


def report(setting: Setting, cells: Sequence[Cell], costs: Sequence[Cost | None], jobs: int) -> str:
    """Return a table of what a run of each cell takes, and lines on all runs; None: diverged."""
    lines = [["cell", "ms a step", "s an evaluation", "s the last", "GB of the GPU", "hours a run"]]
    for cell, cost in zip(cells, costs, strict=True):
        if cost is None:
            lines.append([cell.name, "diverged", *[""] * 4])
            continue
        figures = (
            1e3 * cost.step_seconds,
            cost.evaluation_seconds,
            cost.last_seconds,
            cost.gpu_bytes / 1e9,
        )
        lines.append([cell.name, *(f"{figure:.3f}" for figure in figures), f"{cost.hours:.3g}"])
    found = [cost for cost in costs if cost is not None]
    num_seeds = len(setting.seeds)
    hours = table_hours(found, num_seeds, jobs)
    epochs = sum(cost.num_epochs for cost in found) * num_seeds
    where = "CPUs"
    if torch.cuda.is_available():
        gigabytes = torch.cuda.mem_get_info()[1] / 1e9
        where = f"{torch.cuda.get_device_name()} of {gigabytes:.0f} GB"
    total = f"{len(cells) * num_seeds} runs, {jobs} at a time, on {where}: {hours:.3g} hours"
    rate = epochs / (3600 * hours) if hours else 0
    needed = (
        f"{epochs:.0f} epochs: {rate:.3g} a second; to end within a day it takes "
        f"{epochs / (24 * 3600):.3g} a second"
    )
    return "\n".join([*tables.markdown(lines, {"cell"}), "", total, needed]) + "\n"


def plan_table(setting: Setting, cells: Sequence[Cell], jobs: int) -> str:
    """Measure a run of each cell, as many copies at once as run at once; return what all take.

    Raises:
        UserError: flags are wrong, or nodes are not simulated.
    """
    configs = [setting.config(cell, setting.seeds.start) for cell in cells]
    for cell, config in zip(cells, configs, strict=True):
        if config.launch.backend != "sim":
            raise UserError(
                f"--dry_run: {cell.name} has {config.launch.n_mpi_process} nodes in processes of "
                "their own; what takes one process alone is measured: --simulate"
            )
    copies = min(jobs, len(cells) * len(setting.seeds))
    with multiprocessing.get_context("spawn").Manager() as manager:
        costs = [_side_by_side(config, copies, manager.Barrier(copies)) for config in configs]
    return report(setting, cells, costs, jobs)
