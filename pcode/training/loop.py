"""The one training loop, for every law, graph and backend, with its evaluations and records."""

from __future__ import annotations

import math
import os
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pcode.communication import Communicator
from pcode.datasets import epoch_batches
from pcode.timing import PARTS
from pcode.training.evaluation import Evaluation, average_model, evaluate
from pcode.training.node import Node, parameters_digest
from pcode.training.plan import Plan, run_folder
from pcode.training.records import Records

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
        self.records = _open_records(plan, communicator)
        self.best_top1 = -math.inf

    def say(self, text: str) -> None:
        """A line on rank 0's standard output."""
        if self.is_first:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def train(self) -> dict[str, Any]:
        """Train, evaluate and keep; the summary, the same on every node."""
        watch, plan, node = self.plan.config.watch, self.plan, self.node
        last_loss = math.nan
        terminal = sys.stderr.isatty() or os.environ.get(LAUNCHER_VARIABLE) == "terminal"
        begin = time.perf_counter()
        with tqdm(
            total=plan.num_steps, unit="step", disable=not (self.is_first and terminal), leave=False
        ) as bar:
            for epoch in range(plan.num_epochs):
                losses = self._train_epoch(epoch, bar)
                ended = epoch + 1 == plan.num_epochs
                last_loss = sum(losses) / len(losses)
                due = (epoch + 1) % watch.eval_freq == 0 and not watch.train_fast
                if due and not ended:
                    self._evaluate(epoch + 1, last_loss, watch.evaluate_avg, begin)
        seconds = self._step_seconds()
        node.finish()
        before = evaluate(
            node.model, plan.dataset, self.communicator, averaged=True, consensus=True
        )
        if plan.config.learning.avg_model:
            average_model(node.model, self.communicator)
            final = evaluate(
                node.model, plan.dataset, self.communicator, averaged=False, consensus=False
            )
        else:
            final = before
        self._report(plan.num_epochs, last_loss, before, begin)
        self.best_top1 = max(self.best_top1, final.test_top1)
        summary = self._summarise(last_loss, seconds, before, final)
        self.records.write_model(node.model)
        self.communicator.barrier()
        if self.is_first:
            self.records.write_summary(summary)
        self.records.close()
        return summary

    def _train_epoch(self, epoch: int, bar: Any) -> list[float]:
        """The losses of the epoch's steps."""
        plan, node = self.plan, self.node
        batches = epoch_batches(
            plan.partition(epoch)[node.rank],
            plan.steps_per_epoch,
            plan.config.data.batch_size,
            seed=node.seed,
            rank=node.rank,
            epoch=epoch,
        )
        losses: list[float] = []
        for batch in batches[: plan.num_steps - node.law.num_steps]:
            losses.append(node.train_step(batch))
            step = node.law.num_steps
            if step == UNTIMED_STEPS:
                node.restart_timer()
            if step % plan.config.watch.summary_freq == 0:
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

    def _evaluate(self, epoch: int, loss: float, averaged: bool, begin: float) -> None:
        consensus = self.plan.config.watch.evaluate_consensus
        result = evaluate(
            self.node.model,
            self.plan.dataset,
            self.communicator,
            averaged=averaged,
            consensus=consensus,
        )
        self._report(epoch, loss, result, begin)

    def _report(self, epoch: int, loss: float, result: Evaluation, begin: float) -> None:
        self.best_top1 = max(self.best_top1, result.test_top1)
        loss = _mean(self.communicator, {"loss": loss})["loss"]
        values: dict[str, Any] = {
            "epoch": epoch,
            "train_loss": loss,
            "test_top1": result.test_top1,
            "node_test_top1": result.test_top1_per_node[self.communicator.rank],
            "test_loss": result.test_loss,
            "bytes_sent": self.communicator.bytes_sent,
            "seconds": time.perf_counter() - begin,
        }
        text = (
            f"epoch {epoch:3d}: train loss {loss:.4f}, test top-1 {result.test_top1:.2f} %"
            f" (worst node {min(result.test_top1_per_node):.2f} %)"
        )
        if result.averaged_model_test_top1 is not None:
            values["averaged_model_test_top1"] = result.averaged_model_test_top1
            text += f", averaged model {result.averaged_model_test_top1:.2f} %"
        if result.consensus_distance is not None:
            values["consensus_distance"] = result.consensus_distance
            text += f", consensus distance {result.consensus_distance:.3g}"
        self.records.write("evaluation", self.node.law.num_steps, values)
        self.say(text)
        seconds = self._step_seconds()
        if self.plan.config.watch.display_tracked_time and seconds is not None:
            self.say(_time_table(seconds))

    def _summarise(
        self, loss: float, seconds: dict[str, float] | None, before: Evaluation, final: Evaluation
    ) -> dict[str, Any]:
        plan, node, communicator = self.plan, self.node, self.communicator
        digest = torch.frombuffer(bytearray(parameters_digest(node.model)), dtype=torch.uint8)
        sent = [row[0] for row in _gather_floats(communicator, [float(communicator.bytes_sent)])]
        return {
            "test_top1": final.test_top1,
            "test_top1_per_node": final.test_top1_per_node,
            "best_test_top1": self.best_top1,
            "averaged_model_test_top1": before.averaged_model_test_top1,
            "train_loss": _mean(communicator, {"loss": loss})["loss"],
            "consensus_distance": before.consensus_distance,
            "num_parameters": plan.layout.num_entries,
            "num_steps": node.law.num_steps,
            "num_epochs": node.law.num_steps / plan.steps_per_epoch,
            "message_bytes": plan.message_bytes,
            "bytes_sent_per_step": sum(sent) / len(sent) / node.law.num_steps,
            "bytes_sent_total": int(sum(sent)),
            "step_seconds": _mean(communicator, seconds) if seconds is not None else None,
            "parameters_sha256": [
                bytes(row.tolist()).hex() for row in communicator.all_gather(digest)
            ],
            "learning_rate": node.law.param_groups[0]["lr"],
            "consensus_stepsize": plan.config.graph.consensus_stepsize,
            "spectral_gap": plan.topology.spectral_gap,
            "exit_reason": "finished",
        }


def run_node(plan: Plan, communicator: Communicator) -> tuple[dict[str, Any], Path]:
    """Train one node to the end; the run's summary and folder, the same on every node."""
    run = Run(plan, communicator)
    summary = run.train()
    run.say(f"results: {run.records.folder}")
    return summary, run.records.folder
