"""The one training loop, for every law, graph and backend, with its evaluations and records."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pcode.communication import Communicator
from pcode.errors import DivergenceError
from pcode.timing import PARTS
from pcode.training.evaluation import Evaluation, average_model, evaluate
from pcode.training.node import Node, parameters_digest
from pcode.training.plan import Plan, run_folder
from pcode.training.records import Records, load_model, model_file

# The launcher sets it to "terminal" where its standard error is one: a rank's own never is.
LAUNCHER_VARIABLE = "PCODE_LAUNCHER"
# The first step compiles the kernel that encodes, the second the one that decodes.
UNTIMED_STEPS = 2


def _gather_floats(communicator: Communicator, values: list[float]) -> list[list[float]]:
    gathered = communicator.all_gather(torch.tensor(values, dtype=torch.float64))
    return [row.tolist() for row in gathered]


def _mean(communicator: Communicator, values: dict[str, float]) -> dict[str, float]:
    """The mean of each value over the nodes."""
    rows = _gather_floats(communicator, list(values.values()))
    return {
        name: sum(column) / len(rows)
        for name, column in zip(values, zip(*rows, strict=True), strict=True)
    }


def _open_records(plan: Plan, communicator: Communicator) -> Records:
    """Make the run's folder, in which every node then makes its own."""
    start = _gather_floats(communicator, [time.time()])[0][0]
    named = datetime.fromtimestamp(start).strftime("%Y-%m-%d_%H-%M-%S-%f")
    folder = run_folder(plan.config, plan.timestamp or named)
    if communicator.rank == 0:
        folder.mkdir(parents=True)
    communicator.barrier()
    records = Records(folder, communicator.rank)
    if communicator.rank == 0:
        records.write_config(plan.config)
        if plan.config.data.partition_data != "none":
            records.write_partition(plan.partition(epoch=0))
    return records


def _time_table(seconds: dict[str, float]) -> str:
    total = seconds["total"]
    cells = [f"{part} {1e3 * seconds[part]:.2f} ms" for part in PARTS]
    return f"step {1e3 * total:.2f} ms: " + ", ".join(cells)


class Run:
    """The training loop of one node, with its evaluations and records."""

    def __init__(self, plan: Plan, communicator: Communicator) -> None:
        self.plan, self.communicator = plan, communicator
        self.is_first = communicator.rank == 0
        self.node = Node(plan, communicator)
        self.task = self.node.task
        self.records = _open_records(plan, communicator)
        self.best: float | None = None
        self.train_seconds = 0.0
        self._name = f"test_{self.task.metric}"

    def say(self, text: str) -> None:
        """A line on rank 0's standard output."""
        if self.is_first:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def train(self) -> dict[str, Any]:
        """Train, evaluate and keep; the summary, the same on every node."""
        watch, plan, node = self.plan.config.watch, self.plan, self.node
        loss = math.nan
        terminal = sys.stderr.isatty() or os.environ.get(LAUNCHER_VARIABLE) == "terminal"
        with tqdm(
            total=plan.num_steps, unit="step", disable=not (self.is_first and terminal), leave=False
        ) as bar:
            for epoch in range(plan.num_epochs):
                begin = time.perf_counter()
                losses = self._train_epoch(epoch, bar)
                self.train_seconds += time.perf_counter() - begin
                loss = _mean(self.communicator, {"loss": sum(losses) / len(losses)})["loss"]
                node.schedule.observe(loss)
                if watch.saves_model_after(epoch + 1):
                    self.records.write_model(node.model, epoch + 1)
                due = (epoch + 1) % watch.eval_freq == 0 and not watch.train_fast
                if due and epoch + 1 < plan.num_epochs:
                    result = self._evaluate(watch.evaluate_avg, watch.evaluate_consensus)
                    self._report(result, loss)
        node.finish()
        return self._end(loss, "finished")

    def evaluate(self, folder: Path) -> dict[str, Any]:
        """Evaluate the models of a run; the summary, the same on every node.

        Args:
            folder: of that run.
        """
        index = self.plan.config.watch.checkpoint_index
        file = model_file(folder, self.node.rank, index)
        load_model(self.node.model, file)
        self.say(f"models of {folder}" + ("" if index is None else f" after epoch {index}"))
        return self._end(None, "evaluated")

    def _train_epoch(self, epoch: int, bar: Any) -> list[float]:
        """The losses of the epoch's steps."""
        plan, node, watch = self.plan, self.node, self.plan.config.watch
        losses: list[float] = []
        with closing(node.epoch_batches(epoch)) as batches:
            for _ in range(min(plan.steps_per_epoch, plan.num_steps - node.law.num_steps)):
                losses.append(node.train_step(batches))
                step = node.law.num_steps
                if watch.track_detailed_time:
                    self.records.write("step", step, {"step_seconds": node.last_step_seconds()})
                if step == UNTIMED_STEPS:
                    node.restart_timer()
                if step % watch.summary_freq == 0:
                    self._record_training(step, losses[-1])
                bar.update()
        return losses

    def _record_training(self, step: int, loss: float) -> None:
        rate = self.node.law.param_groups[0]["lr"]
        seconds = self._step_seconds()
        self.records.write(
            "train", step, {"loss": loss, "learning_rate": rate, "step_seconds": seconds}
        )

    def _step_seconds(self) -> dict[str, float] | None:
        """This node's, where it is to be measured."""
        return self.node.step_seconds() if self.plan.config.watch.track_time else None

    def _evaluate(self, averaged: bool, consensus: bool) -> Evaluation:
        return evaluate(
            self.node.model,
            self.plan.dataset,
            self.communicator,
            averaged=averaged,
            consensus=consensus,
        )

    def _end(self, loss: float | None, exit_reason: str) -> dict[str, Any]:
        """Evaluate everything at the end, and keep it; the summary."""
        seconds = self._step_seconds()
        before = final = self._evaluate(averaged=True, consensus=True)
        self._report(before, loss)
        if self.plan.config.learning.avg_model:
            average_model(self.node.model, self.communicator)
            final = self._averaged(before)
        summary = self._summary(loss, seconds, before, final, exit_reason)
        self.records.write_model(self.node.model)
        self.communicator.barrier()
        if self.is_first:
            self.records.write_summary(summary)
        self.records.close()
        return summary

    def _averaged(self, before: Evaluation) -> Evaluation:
        """What all nodes have after averaging: the model that they have evaluated together."""
        figure = before.averaged_model
        assert figure is not None, "at the end it is evaluated"
        final = dataclasses.replace(before, per_node=[figure] * len(before.per_node))
        self._keep_best(final)
        self.records.write("averaged", self.node.law.num_steps, {self._name: figure})
        self.say(f"averaged on all nodes: test {self.task.label} {self.task.text(figure)}")
        return final

    def _keep_best(self, result: Evaluation) -> None:
        self.best = result.mean if self.best is None else self.task.best(self.best, result.mean)

    def _report(self, result: Evaluation, loss: float | None) -> None:
        """Say and record an evaluation; loss: in training, mean over nodes and epoch."""
        self._keep_best(result)
        task, step, sent = self.task, self.node.law.num_steps, self.communicator.bytes_sent
        epoch = step / self.plan.steps_per_epoch
        worst = task.worst(result.per_node)
        values: dict[str, Any] = {"epoch": epoch}
        text = ""
        if loss is not None:
            values["train_loss"] = loss
            text = f"epoch {epoch:3g}: train loss {loss:.4f}, "
        values |= {
            self._name: result.mean,
            f"worst_test_{task.metric}": worst,
            f"node_test_{task.metric}": result.per_node[self.communicator.rank],
            "test_loss": result.test_loss,
            "bytes_sent": sent,
            "bytes_sent_mean": _mean(self.communicator, {"sent": sent})["sent"],
            "seconds": self.train_seconds,
        }
        text += f"test {task.label} {task.text(result.mean)} (worst node {task.text(worst)})"
        if result.averaged_model is not None:
            values[f"averaged_model_test_{task.metric}"] = result.averaged_model
            text += f", averaged model {task.text(result.averaged_model)}"
        if result.consensus_distance is not None:
            values["consensus_distance"] = result.consensus_distance
            text += f", consensus distance {result.consensus_distance:.3g}"
        self.records.write("evaluation", step, values)
        self.say(text)
        seconds = self._step_seconds()
        if self.plan.config.watch.display_tracked_time and seconds is not None:
            self.say(_time_table(seconds))

    def _known_figures(self, exit_reason: str) -> dict[str, Any]:
        """What a summary can say of a run that ended in any way."""
        plan, node = self.plan, self.node
        num_steps = node.law.num_steps
        return {
            f"test_{self.task.metric}": None,
            f"test_{self.task.metric}_per_node": None,
            f"worst_test_{self.task.metric}": None,
            f"best_test_{self.task.metric}": self.best,
            f"averaged_model_test_{self.task.metric}": None,
            "train_loss": None,
            "consensus_distance": None,
            "num_parameters": plan.layout.num_entries,
            "num_steps": num_steps,
            "num_epochs": num_steps / plan.steps_per_epoch,
            "message_bytes": plan.message_bytes,
            "bytes_sent_per_step": None,
            "bytes_sent_total": None,
            "train_seconds": self.train_seconds,
            "step_seconds": None,
            "parameters_sha256": None,
            "learning_rate": node.law.param_groups[0]["lr"],
            "consensus_stepsize": plan.config.graph.consensus_stepsize,
            "spectral_gap": plan.topology.spectral_gap,
            "exit_reason": exit_reason,
        }

    def _summary(
        self,
        loss: float | None,
        seconds: dict[str, float] | None,
        before: Evaluation,
        final: Evaluation,
        exit_reason: str,
    ) -> dict[str, Any]:
        communicator, metric = self.communicator, self.task.metric
        digest = torch.frombuffer(bytearray(parameters_digest(self.node.model)), dtype=torch.uint8)
        sent = [row[0] for row in _gather_floats(communicator, [float(communicator.bytes_sent)])]
        known = self._known_figures(exit_reason)
        return known | {
            f"test_{metric}": final.mean,
            f"test_{metric}_per_node": final.per_node,
            f"worst_test_{metric}": self.task.worst(final.per_node),
            f"averaged_model_test_{metric}": before.averaged_model,
            "train_loss": loss,
            "consensus_distance": before.consensus_distance,
            "bytes_sent_per_step": sum(sent) / len(sent) / max(known["num_steps"], 1),
            "bytes_sent_total": int(sum(sent)),
            "step_seconds": _mean(communicator, seconds) if seconds is not None else None,
            "parameters_sha256": [
                bytes(row.tolist()).hex() for row in communicator.all_gather(digest)
            ],
        }

    def diverged(self, error: DivergenceError) -> None:
        """Keep what this node knows of a run that it cannot go on with.

        Every node may be the first to find out, and the others are ended with it.
        """
        self.records.write_summary(self._known_figures(f"diverged: {error}"))
        self.records.close()


def run_node(plan: Plan, communicator: Communicator) -> tuple[dict[str, Any], Path]:
    """Train one node to the end, or evaluate it; the run's summary and folder, on every node.

    Raises:
        DivergenceError: after the summary has been written.
    """
    run = Run(plan, communicator)
    try:
        if plan.evaluated_run is not None:
            summary = run.evaluate(plan.evaluated_run)
        else:
            summary = run.train()
    except DivergenceError as error:
        run.diverged(error)
        raise
    run.say(f"results: {run.records.folder}")
    return summary, run.records.folder
