"""The one training loop, for every law, graph and backend, with its evaluations and records."""

from __future__ import annotations

import dataclasses
import errno
import os
import sys
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from pcode.communication import Communicator
from pcode.errors import (
    CommunicationError,
    DivergenceError,
    Preempted,
    StorageError,
    UserError,
)
from pcode.injection import Injector, read_faults
from pcode.timing import PARTS
from pcode.training.checkpoint import Checkpoints
from pcode.training.evaluation import Evaluation, average_model, evaluate
from pcode.training.meetings import Meetings
from pcode.training.node import Node, parameters_digest
from pcode.training.plan import Plan, runs_folder
from pcode.training.progress import Progress
from pcode.training.records import Records, load_model, model_file
from pcode.training.recovery import Incurable, regroup
from pcode.training.start import Start, mean_state
from pcode.training.stop import StopRequest

# The launcher sets it to "terminal" where its standard error is one: a rank's own never is.
LAUNCHER_VARIABLE = "PCODE_LAUNCHER"
# The first step compiles the kernel that encodes, the second the one that decodes.
UNTIMED_STEPS = 2
# Added to a number of steps that is whole but for rounding.
ROUNDING = 1e-6
# What a disk says that takes no more.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)


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


def _open_records(plan: Plan, communicator: Communicator, log_bytes: int) -> Records:
    """Make the run's folder, or open that of the run which goes on, with every node's own.

    Args:
        log_bytes: what the node's log holds up to where the run goes on.
    """
    # Nobody writes before all nodes have come here, with all that they have to read.
    now = _gather_floats(communicator, [time.time()])[0][0]
    named = datetime.fromtimestamp(now).strftime("%Y-%m-%d_%H-%M-%S-%f")
    goes_on = plan.start is not None and plan.start.same
    folder = runs_folder(plan.config) / (plan.timestamp or named)
    if plan.start is not None and goes_on:
        folder = plan.start.run
    elif communicator.rank == 0:
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise UserError(f"--checkpoint: cannot make {folder}: {error.strerror}") from None
    communicator.barrier()
    records = Records(folder, str(communicator.rank), log_bytes if goes_on else None)
    if communicator.rank == 0:
        records.lead()
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

    def __init__(self, plan: Plan, communicator: Communicator, request: StopRequest) -> None:
        self.injector = Injector(communicator.rank, read_faults())
        self.injector.listen(communicator)
        self.node = Node(plan, communicator, self.injector)
        self.members = [str(rank) for rank in range(communicator.num_nodes)]
        self.task = self.node.task
        self._name = f"test_{self.task.metric}"
        self._request = request
        self._first_step = 0
        self.progress = self._begin(plan.start)
        self.records = _open_records(plan, communicator, self.progress.log_bytes)
        watch = plan.config.watch
        self._checkpoints = Checkpoints(
            self.records.folder,
            self.records.own.name,
            num_kept=watch.keep_checkpoints,
            for_good=watch.saves_model_after,
            injector=self.injector,
        )
        self._meetings = Meetings(communicator, request, watch.checkpoint_minutes, self.injector)

    @property
    def plan(self) -> Plan:
        return self.node.plan

    @property
    def communicator(self) -> Communicator:
        return self.node.communicator

    @property
    def is_first(self) -> bool:
        return self.communicator.rank == 0

    def _begin(self, start: Start | None) -> Progress:
        """Load what the run starts from."""
        node = self.node
        if start is None:
            return Progress()
        self.say(str(start))
        if start.manifest is None:
            return Progress()
        states = start.states(node.rank, node.law.layout)
        event = {"step": start.manifest.step, "resumed": str(start.run)}
        if start.same:
            (state,) = states
            node.load_state_dict(state)
            progress = Progress(**state["progress"])
            node.communicator.bytes_sent = progress.bytes_sent
        else:
            steps = start.manifest.epoch * node.plan.steps_per_epoch
            node.hand_on(mean_state(states), int(steps + ROUNDING))
            node.law.rebuild()
            progress = Progress()
        progress.events.append(event)
        self._first_step = node.law.num_steps
        return progress

    def say(self, text: str) -> None:
        """A line on rank 0's standard output."""
        if self.is_first:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def train(self) -> dict[str, Any]:
        """Train, evaluate and keep; the summary, the same on every node.

        Raises:
            Preempted: a signal asked for it, and a checkpoint was written.
        """
        terminal = sys.stderr.isatty() or os.environ.get(LAUNCHER_VARIABLE) == "terminal"
        with tqdm(
            total=self.plan.num_steps,
            initial=self._first_step,
            unit="step",
            disable=not (self.is_first and terminal),
            leave=False,
        ) as bar:
            goes_on = self.plan.start is not None and self.plan.start.same
            while True:
                try:
                    return self._train(bar, goes_on)
                except (CommunicationError, DivergenceError) as error:
                    if self.plan.config.launch.on_failure != "continue":
                        raise
                    self._recover(error)
                goes_on = False

    def _train(self, bar: Any, goes_on: bool) -> dict[str, Any]:
        """Train from where the node stands to the end.

        Args:
            goes_on: from a checkpoint, which an epoch's evaluation had not been made before.
        """
        node = self.node
        epoch, within = divmod(node.law.num_steps, self.plan.steps_per_epoch)
        if goes_on and within == 0 and epoch > 0:
            self._evaluate_if_due(epoch)
        while node.law.num_steps < self.plan.num_steps:
            begin = time.perf_counter()
            self._train_epoch(bar)
            self.progress.train_seconds += time.perf_counter() - begin
            self._end_epoch()
        node.finish()
        return self._end(self.progress.loss, "finished")

    def _end_epoch(self) -> None:
        """What follows an epoch's steps: its loss, a checkpoint, an evaluation."""
        node, watch, progress = self.node, self.plan.config.watch, self.progress
        step = node.law.num_steps
        epoch = -(-step // self.plan.steps_per_epoch)
        loss = sum(progress.losses) / len(progress.losses)
        progress.loss = _mean(self.communicator, {"loss": loss})["loss"]
        progress.losses = []
        node.schedule.observe(progress.loss)
        decision = self._meetings.meet(step)
        if watch.saves_model_after(epoch):
            self.records.write_model(node.model, epoch)
        by_epochs = watch.checkpoint_minutes is None or watch.saves_model_after(epoch)
        due = not watch.train_fast and (decision.save or by_epochs)
        if due or decision.stop or step == self.plan.num_steps:
            self._save()
        if decision.stop:
            self._stop()
        self._evaluate_if_due(epoch)

    def _evaluate_if_due(self, epoch: int) -> None:
        watch = self.plan.config.watch
        due = epoch % watch.eval_freq == 0 and not watch.train_fast
        if due and self.node.law.num_steps < self.plan.num_steps:
            result = self._evaluate(watch.evaluate_avg, watch.evaluate_consensus)
            self._report(result, self.progress.loss)

    def _save(self) -> None:
        """Write a checkpoint; all nodes call it at the same step."""
        node, progress = self.node, self.progress
        state = node.state_dict()
        progress.bytes_sent = self.communicator.bytes_sent
        progress.log_bytes = self.records.log_bytes()
        self._checkpoints.save(
            {**state, "progress": vars(progress)},
            node.law.layout,
            step=node.law.num_steps,
            steps_per_epoch=self.plan.steps_per_epoch,
            folders=self.members,
            communicator=self.communicator,
        )

    def _stop(self) -> NoReturn:
        """End in good order, after a checkpoint."""
        self.records.close()
        raise Preempted(self.records.folder, self.node.law.num_steps)

    def _recover(self, error: CommunicationError | DivergenceError) -> None:
        """Go on with the nodes that are left, after an error of this node or of another."""
        communicator, was_first = self.communicator, self.is_first
        sick = isinstance(error, DivergenceError) and (
            error.ranks is None or communicator.rank in error.ranks
        )
        if isinstance(error, DivergenceError):
            communicator.report(error, self.node.law.num_steps)
        alive, regrouped = list(range(communicator.num_nodes)), None
        while regrouped is None:
            communicator, survivors = communicator.recover()
            alive = [alive[rank] for rank in survivors]
            try:
                regrouped = regroup(self.node, communicator, alive, sick, self.injector)
            except Incurable:
                raise error from None
            except CommunicationError:  # another node has died meanwhile
                continue
        lost = [member for rank, member in enumerate(self.members) if rank not in alive]
        self.members = [self.members[rank] for rank in alive]
        self.node = regrouped.node
        step = self.node.law.num_steps
        healed = [self.members[rank] for rank in regrouped.healed]
        self.progress.events.append({"step": step, "lost": lost, "healed": healed})
        self.progress.losses = []
        self._meetings = Meetings(
            self.communicator,
            self._request,
            self.plan.config.watch.checkpoint_minutes,
            self.injector,
        )
        self.injector.listen(self.communicator)
        if self.is_first and not was_first:
            self.records.lead()
        if lost:
            self.say(
                f"lost the nodes {', '.join(lost)}; {len(self.members)} go on from step {step} on "
                f"a graph {self.plan.topology.name}, spectral gap "
                f"{self.plan.topology.spectral_gap:.3g}"
            )
        if healed:
            self.say(f"step {step}: {', '.join(healed)} took the model of their neighbours")

    def evaluate(self, folder: Path) -> dict[str, Any]:
        """Evaluate the models of a run; the summary, the same on every node.

        Args:
            folder: of that run.
        """
        index = self.plan.config.watch.checkpoint_index
        file = model_file(folder / str(self.node.rank), index)
        load_model(self.node.model, file)
        self.say(f"models of {folder}" + ("" if index is None else f" after epoch {index}"))
        return self._end(None, "evaluated")

    def _train_epoch(self, bar: Any) -> None:
        """The steps that are left of the epoch under way."""
        plan, node, watch = self.plan, self.node, self.plan.config.watch
        spe = plan.steps_per_epoch
        end = min((node.law.num_steps // spe + 1) * spe, plan.num_steps)
        with closing(node.batches_ahead()) as batches:
            while node.law.num_steps < end:
                self.progress.losses.append(node.train_step(batches))
                step = node.law.num_steps
                if watch.track_detailed_time:
                    self.records.write("step", step, {"step_seconds": node.last_step_seconds()})
                if step == self._first_step + UNTIMED_STEPS:
                    node.restart_timer()
                if step % watch.summary_freq == 0:
                    self._record_training(step, self.progress.losses[-1])
                bar.update()
                if step < end:  # at the end of an epoch they meet in any case
                    decision = self._meetings.after_step(step)
                    if decision.stop or decision.save:
                        self._save()
                    if decision.stop:
                        self._stop()

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
        self.injector.reach("evaluate", self.node.law.num_steps)
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
        best, mean = self.progress.best, result.mean
        self.progress.best = mean if best is None else self.task.best(best, mean)

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
            "seconds": self.progress.train_seconds,
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
            f"best_test_{self.task.metric}": self.progress.best,
            f"averaged_model_test_{self.task.metric}": None,
            "train_loss": None,
            "consensus_distance": None,
            "num_parameters": plan.layout.num_entries,
            "num_steps": num_steps,
            "num_epochs": num_steps / plan.steps_per_epoch,
            "message_bytes": plan.message_bytes,
            "bytes_sent_per_step": None,
            "bytes_sent_total": None,
            "train_seconds": self.progress.train_seconds,
            "step_seconds": None,
            "parameters_sha256": None,
            "learning_rate": node.law.param_groups[0]["lr"],
            "consensus_stepsize": plan.config.graph.consensus_stepsize,
            "spectral_gap": plan.topology.spectral_gap,
            "events": self.progress.events,
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


def run_node(
    plan: Plan, communicator: Communicator, request: StopRequest
) -> tuple[dict[str, Any], Path]:
    """Train one node to the end, or evaluate it; the run's summary and folder, on every node.

    Args:
        request: whether this process was asked to end.

    Raises:
        DivergenceError: after the summary has been written.
        Preempted: after a checkpoint has been written.
        StorageError: a file could not be written.
        CommunicationError: names rank and step.
    """
    run = Run(plan, communicator, request)
    try:
        if plan.evaluated_run is not None:
            summary = run.evaluate(plan.evaluated_run)
        else:
            summary = run.train()
    except DivergenceError as error:
        run.diverged(error)
        raise
    except CommunicationError as error:
        raise error.at(run.node.law.num_steps) from error
    except OSError as error:
        if error.errno not in FULL:
            raise
        step = run.node.law.num_steps
        raise StorageError(
            f"rank {communicator.rank}, step {step}: {error.strerror}: "
            f"{error.filename or run.records.folder}; earlier checkpoints are whole"
        ) from error
    run.say(f"results: {run.records.folder}")
    return summary, run.records.folder
