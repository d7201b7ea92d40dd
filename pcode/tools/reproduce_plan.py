"""How long a table takes on this machine: a few steps and an evaluation of each of its cells."""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import torch

from pcode.communication import ProcessCommunicator, Simulation, by_nodes
from pcode.config import Config
from pcode.tools.reproduce_tables import Cell, Setting
from pcode.training.evaluation import evaluate
from pcode.training.node import Node
from pcode.training.planning import make_plan
from pcode.utils import tables
from pcode.utils.errors import UserError

# Kernels are compiled in the first steps.
UNTIMED_STEPS, TIMED_STEPS = 3, 10


class Cost(NamedTuple):
    """What a run takes, all nodes together.

    Attributes:
        step_seconds, evaluation_seconds: of one.
        num_steps, num_evaluations: of the whole run.
        peak_bytes: of the GPU's memory; 0 on CPUs.
    """

    step_seconds: float
    evaluation_seconds: float
    num_steps: int
    num_evaluations: int
    peak_bytes: int

    @property
    def hours(self) -> float:
        steps = self.num_steps * self.step_seconds
        return (steps + self.num_evaluations * self.evaluation_seconds) / 3600


def measured(config: Config) -> Cost:
    """Measure a run's steps and its evaluation; its nodes are simulated in this process."""
    launch, watch = config.launch, config.watch
    torch.set_num_threads(launch.num_threads or 1)
    if launch.on_cuda is None:
        launch = dataclasses.replace(launch, on_cuda=torch.cuda.is_available())
    plan = make_plan(dataclasses.replace(config, launch=launch))

    def node(process: ProcessCommunicator) -> tuple[float, float]:
        """Return the seconds of a step and of an evaluation."""
        communicator = by_nodes(process, launch.n_sub_process, launch.time_limit_seconds)
        own = Node(plan, communicator)
        batches = own.batches_ahead()

        def train(num_steps: int) -> float:
            """Make steps, from where all nodes begin to where all have ended; the seconds."""
            nonlocal batches
            communicator.barrier()
            begin = time.perf_counter()
            for _ in range(num_steps):
                if own.optimizer.num_steps % plan.steps_per_epoch == 0:
                    batches = own.batches_ahead()
                own.train_step(batches)
            own.finish()
            communicator.barrier()
            return time.perf_counter() - begin

        train(UNTIMED_STEPS)
        seconds = train(TIMED_STEPS) / TIMED_STEPS
        begin = time.perf_counter()
        kinds = {"averaged": watch.evaluate_avg, "consensus": watch.evaluate_consensus}
        evaluate(own.model, own.dataset, communicator, amp=own.amp, **kinds)
        communicator.barrier()
        return seconds, time.perf_counter() - begin

    step_seconds, evaluation_seconds = Simulation(launch.num_processes).run(node)[0]
    num_epochs = plan.num_steps // plan.steps_per_epoch
    return Cost(
        step_seconds,
        evaluation_seconds,
        plan.num_steps,
        1 if watch.train_fast else max(1, num_epochs // watch.eval_freq),
        torch.cuda.max_memory_allocated() if launch.on_cuda else 0,
    )


def plan_table(setting: Setting, cells: Sequence[Cell], jobs: int) -> str:
    """Measure a run of each cell, `jobs` of them side by side; return what all runs take.

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
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        costs = list(pool.map(measured, configs))
    lines = [["cell", "ms a step", "s an evaluation", "GB of the GPU", "hours a run"]]
    for cell, cost in zip(cells, costs, strict=True):
        figures = (1e3 * cost.step_seconds, cost.evaluation_seconds, cost.peak_bytes / 1e9)
        lines.append([cell.name, *(f"{figure:.3f}" for figure in figures), f"{cost.hours:.3g}"])
    hours = sum(cost.hours for cost in costs) * len(setting.seeds) / jobs
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPUs"
    num_runs = len(cells) * len(setting.seeds)
    total = f"{num_runs} runs, {jobs} at a time, on {where}: {hours:.3g} hours"
    return "\n".join([*tables.markdown(lines, {"cell"}), "", total]) + "\n"
