"""The one training loop, with its evaluations and checkpoints."""

from __future__ import annotations

import errno
import math
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from pcode.communication import Communicator
from pcode.communication.gathering import mean
from pcode.injection import Injector, read_faults
from pcode.launch.steps import StepMark
from pcode.training.checkpoint import Checkpoints
from pcode.training.evaluation import Evaluation, average_model, evaluate
from pcode.training.folders import runs_folder
from pcode.training.plan import Plan
from pcode.training.records import load_model
from pcode.training.recovery import go_on
from pcode.training.reports import averaged, known_figures, make_summary, report
from pcode.training.state import RunState
from pcode.training.stop import StopRequest
from pcode.training.sync import SyncPoints
from pcode.utils.errors import CommunicationError, DivergenceError, Preempted, StorageError

# The launcher sets it to "terminal" where its standard error is one: a rank's own never is.
LAUNCHER_VARIABLE = "PCODE_LAUNCHER"
# The first step compiles the kernel that encodes, the second the one that decodes.
UNTIMED_STEPS = 2
# What a disk says that takes no more.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)


class Run:
    """The training loop of one node.

    Args:
        running: what is trained, and where it is kept.
        request: whether this process was asked to end.
        injector: the failures that are to happen to this node.
    """

    def __init__(self, running: RunState, request: StopRequest, injector: Injector) -> None:
        self.running, self._request, self._injector = running, request, injector
        watch = running.plan.config.watch
        self._checkpoints = Checkpoints(
            running.records.folder,
            running.records.own.name,
            num_kept=watch.keep_checkpoints,
            for_good=watch.saves_model_after,
            injector=injector,
            writes=running.communicator.parts.is_first,
        )
        self._meetings = self._new_meetings()

    def _new_meetings(self) -> SyncPoints:
        running = self.running
        watch = running.plan.config.watch
        minutes = None if watch.train_fast else watch.checkpoint_minutes
        return SyncPoints(running.communicator, self._request, minutes, self._injector)

    @property
    def _first_process(self) -> int:
        """The rank that this process had among all at the beginning."""
        parts = self.running.communicator.parts
        return int(self.running.records.own.name) * parts.num_parts + parts.part

    def train(self) -> dict[str, Any]:
        """Train, evaluate and keep; the summary, the same on every node.

        Raises:
            Preempted: a signal asked for it, and a checkpoint was written.
        """
        terminal = sys.stderr.isatty() or os.environ.get(LAUNCHER_VARIABLE) == "terminal"
        with tqdm(
            total=self.running.plan.num_steps,
            initial=self.running.first_step,
            unit="step",
            disable=not (self.running.is_first and terminal),
            leave=False,
        ) as bar:
            mark = StepMark(self._first_process, self.running.first_step)
            start = self.running.plan.start
            goes_on = start is not None and start.same
            if start is not None and not goes_on:
                self._save()  # nothing of the other run is needed any more
            self._write_config()
            while True:
                try:
                    return self._train(bar, mark, goes_on)
                except (CommunicationError, DivergenceError) as error:
                    if self.running.plan.config.launch.on_failure != "continue":
                        raise
                    go_on(self.running, error, self._injector)
                    self._meetings = self._new_meetings()
                goes_on = False

    def _train(self, bar: Any, mark: StepMark, goes_on: bool) -> dict[str, Any]:
        """Train from where the node stands to the end.

        Args:
            goes_on: from a checkpoint, which an epoch's evaluation had not been made before.
        """
        node = self.running.node
        epoch, within = divmod(node.optimizer.num_steps, self.running.plan.steps_per_epoch)
        # Without a loss no epoch of this run has ended yet: it began with another's models.
        if goes_on and within == 0 and not math.isnan(self.running.progress.loss):
            self._evaluate_if_due(epoch)
        while node.optimizer.num_steps < self.running.plan.num_steps:
            self._train_epoch(bar, mark)
            self._end_epoch()
        node.finish()
        loss = self.running.progress.loss
        # There is none where the last epoch's was lost with a node, and no other was before it.
        return self._end(None if math.isnan(loss) else loss, "finished")

    def _write_config(self) -> None:
        """A folder with a configuration is a run that can go on."""
        if self.running.is_first:
            self.running.records.write_config(self.running.plan.config)

    def _end_epoch(self) -> None:
        """What follows an epoch's steps: its loss, a checkpoint, an evaluation."""
        running = self.running
        node, progress, watch = running.node, running.progress, running.plan.config.watch
        step = node.optimizer.num_steps
        epoch = -(-step // running.plan.steps_per_epoch)
        progress.losses += node.outstanding_losses()
        node.average_statistics()
        progress.losses = node.parts.collect(progress.losses, step)
        loss = sum(progress.losses) / len(progress.losses)
        progress.loss = mean(running.communicator, {"loss": loss})["loss"]
        if step % running.plan.steps_per_epoch == 0:  # else the epoch ends when there are more
            progress.losses = []
            node.schedule.observe(progress.loss)
        decision = self._meetings.meet(step)
        if watch.saves_model_after(epoch):
            running.records.write_model(node.model, epoch)
        by_epochs = watch.checkpoint_minutes is None or watch.saves_model_after(epoch)
        due = not watch.train_fast and (decision.save or by_epochs)
        if due or decision.stop or step == running.plan.num_steps:
            self._save()
        if decision.stop:
            self._stop()
        self._evaluate_if_due(epoch)

    def _evaluate_if_due(self, epoch: int) -> None:
        watch = self.running.plan.config.watch
        due = epoch % watch.eval_freq == 0 and not watch.train_fast
        if due and self.running.step < self.running.plan.num_steps:
            result = self._evaluate(watch.evaluate_avg, watch.evaluate_consensus)
            report(self.running, result, self.running.progress.loss)

    def _save(self) -> None:
        """Write a checkpoint; all nodes call it at the same step."""
        node, progress = self.running.node, self.running.progress
        progress.losses += node.outstanding_losses()
        node.finish()
        node.average_statistics()
        progress.losses = node.parts.collect(progress.losses, self.running.step)
        state = node.state_dict()
        progress.bytes_sent = self.running.communicator.bytes_sent
        progress.log_bytes = self.running.records.log_bytes()
        self._checkpoints.save(
            {**state, "progress": vars(progress)},
            node.optimizer.layout,
            step=node.optimizer.num_steps,
            steps_per_epoch=self.running.plan.steps_per_epoch,
            folders=self.running.members,
            graph=self.running.plan.topology,
            communicator=self.running.communicator,
        )

    def _stop(self) -> NoReturn:
        """End in good order, after a checkpoint."""
        self.running.records.close()
        raise Preempted(self.running.records.folder, self.running.step)

    def evaluate(self, files: Sequence[Path]) -> dict[str, Any]:
        """Evaluate models; the summary, the same on every node.

        Args:
            files: of the nodes, by rank.
        """
        watch = self.running.plan.config.watch
        load_model(self.running.node.model, files[self.running.node.rank])
        when = "" if watch.checkpoint_index is None else f" after epoch {watch.checkpoint_index}"
        self.running.say(f"models of {watch.resume}{when}")
        self._write_config()
        return self._end(None, "evaluated")

    def _train_epoch(self, bar: Any, mark: StepMark) -> None:
        """The steps that are left of the epoch under way."""
        running = self.running
        plan, node, watch = running.plan, running.node, running.plan.config.watch
        progress, records = running.progress, running.records
        spe = plan.steps_per_epoch
        end = min((node.optimizer.num_steps // spe + 1) * spe, plan.num_steps)
        with closing(node.batches_ahead()) as batches:
            while node.optimizer.num_steps < end:
                progress.losses += node.train_step(batches)
                progress.train_seconds += node.last_step_seconds["total"]
                step = node.optimizer.num_steps
                mark.set(step)
                if watch.track_detailed_time:
                    records.write("step", step, {"step_seconds": node.last_step_seconds})
                if step == running.first_step + UNTIMED_STEPS:
                    node.restart_timer()
                if step % watch.summary_freq == 0:
                    progress.losses += node.outstanding_losses()
                    self._record_training(step, progress.losses[-1])
                bar.update()
                if step < end:  # at the end of an epoch they meet in any case
                    decision = self._meetings.after_step(step)
                    if decision.stop or decision.save:
                        self._save()
                    if decision.stop:
                        self._stop()

    def _record_training(self, step: int, loss: float) -> None:
        rate = self.running.node.optimizer.param_groups[0]["lr"]
        (loss,) = self.running.node.parts.totals([loss], step)
        seconds = self.running.step_seconds()
        self.running.records.write(
            "train", step, {"loss": loss, "learning_rate": rate, "step_seconds": seconds}
        )

    def _evaluate(self, averaged: bool, consensus: bool) -> Evaluation:
        self._injector.reach("evaluate", self.running.step)
        node = self.running.node
        return evaluate(
            node.model,
            node.dataset,
            self.running.communicator,
            amp=node.amp,
            averaged=averaged,
            consensus=consensus,
        )

    def _end(self, loss: float | None, exit_reason: str) -> dict[str, Any]:
        """Evaluate everything at the end, and keep it; the summary."""
        seconds = self.running.step_seconds()
        before = final = self._evaluate(averaged=True, consensus=True)
        report(self.running, before, loss)
        if self.running.plan.config.learning.avg_model:
            average_model(self.running.node.model, self.running.communicator)
            final = averaged(self.running, before)
        summary = make_summary(
            self.running, before, final, loss=loss, seconds=seconds, exit_reason=exit_reason
        )
        self.running.records.write_model(self.running.node.model)
        self.running.communicator.barrier()
        if self.running.is_first:
            self.running.records.write_summary(summary)
        self.running.records.close()
        return summary


def run_node(
    plan: Plan, communicator: Communicator, request: StopRequest
) -> tuple[dict[str, Any], Path]:
    """Train one node to the end, or evaluate it; the run's summary and folder, on every node.

    Args:
        request: whether this process was asked to end.

    Raises:
        UserError: what it starts from is damaged or does not fit.
        DivergenceError: after the summary has been written.
        Preempted: after a checkpoint has been written.
        StorageError: a file could not be written.
        CommunicationError: names rank and step.
    """
    injector = Injector(communicator.process, read_faults())
    injector.listen(communicator)
    running: RunState | None = None
    try:
        running = RunState(plan, communicator, injector)
        run = Run(running, request, injector)
        summary = run.train() if plan.evaluated is None else run.evaluate(plan.evaluated)
    except DivergenceError as error:
        if running is None:
            raise
        raise diverged(running, error.named(running.members)) from error
    except CommunicationError as error:
        if running is None:
            raise
        raise error.named(running.members, running.step) from error
    except OSError as error:
        if error.filename is None and error.errno not in FULL:
            raise
        step = "" if running is None else f", step {running.step}"
        raise StorageError(
            f"rank {communicator.rank if running is None else running.records.own.name}{step}: "
            f"{error.filename or runs_folder(plan.config)}: {error.strerror}; earlier checkpoints "
            "are whole"
        ) from error
    running.say(f"results: {running.records.folder}")
    return summary, running.records.folder


def diverged(running: RunState, error: DivergenceError) -> DivergenceError:
    """Keep what this node knows of a run that it cannot go on with; the error that ends it.

    Every node may be the first to find out, and the others are ended with it.
    """
    try:
        running.records.write_summary(known_figures(running, f"diverged: {error}"))
        running.records.close()
    except OSError as full:
        return DivergenceError(f"{error}; and no summary could be written: {full.strerror}")
    return error
