"""The training loop: steps, epochs, synchronisation points, checkpoints, evaluations."""

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from pcode.communication.gathering import mean, sums, sums_on_first
from pcode.training.checkpoint import Checkpoints
from pcode.training.evaluation import Evaluation, average_model, evaluate
from pcode.training.records import load_model
from pcode.training.recovery import go_on
from pcode.training.reports import averaged, make_summary, report
from pcode.training.state import RunState
from pcode.training.stop import StopRequest
from pcode.training.sync import SyncPoints
from pcode.utils.errors import CommunicationError, DivergenceError, Preempted

# Left out of the mean step times: kernels compile in the first steps.
UNTIMED_STEPS = 2


class Loop:
    """The training loop of one node.

    Args:
        state: the run's, on this node.
        request: set when a signal asks the process to stop.
        mark_step: called with the number of steps made, before the first and after each.
        shows_progress: draw a bar on the standard error of the first node.
    """

    def __init__(
        self,
        state: RunState,
        request: StopRequest,
        mark_step: Callable[[int], None],
        *,
        shows_progress: bool,
    ) -> None:
        self.state, self._request, self._mark_step = state, request, mark_step
        watch = state.plan.config.watch
        self._checkpoints = Checkpoints(
            state.records.folder,
            state.records.own.name,
            num_retained=watch.keep_checkpoints,
            for_good=watch.saves_model_after,
            writes=state.communicator.local_ranks.is_first,
        )
        self._sync_points = self._new_sync_points()
        self._bar = tqdm(
            total=state.plan.num_steps,
            initial=state.first_step,
            unit="step",
            disable=not (state.is_first and shows_progress),
            leave=False,
        )

    def _new_sync_points(self) -> SyncPoints:
        watch = self.state.plan.config.watch
        minutes = None if watch.train_fast else watch.checkpoint_minutes
        return SyncPoints(self.state.communicator, self._request, minutes)

    def train(self) -> dict[str, Any]:
        """Train, evaluate and save; return the summary, the same on every node.

        Raises:
            Preempted: a signal asked for it, and a checkpoint was written.
        """
        start = self.state.plan.start
        resumes = start is not None and start.same
        with self._bar:
            self._mark_step(self.state.first_step)
            if start is not None and not resumes:
                self._save()  # from here on the source run is not needed
            self.state.write_config()
            while True:
                try:
                    return self._train(resumes)
                except (CommunicationError, DivergenceError) as error:
                    if self.state.plan.config.launch.on_failure != "continue":
                        raise
                    go_on(self.state, error)
                    self._sync_points = self._new_sync_points()
                resumes = False

    def _train(self, resumes: bool) -> dict[str, Any]:
        """Train from the current step to the end.

        Args:
            resumes: from a checkpoint, which is written before the epoch's evaluation.
        """
        state = self.state
        epoch, within = divmod(state.step, state.plan.steps_per_epoch)
        # NaN means that no epoch of this run has ended: it started from another run's models.
        if resumes and within == 0 and not math.isnan(state.progress.loss):
            self._evaluate_if_due(epoch)
        while state.step < state.plan.num_steps:
            self._train_epoch()
            self._end_epoch()
        state.node.finish()
        loss = state.progress.loss
        # NaN where a failure has discarded the only one.
        return self._end(None if math.isnan(loss) else loss, "finished")

    def _train_epoch(self) -> None:
        """Run the remaining steps of the current epoch."""
        state, node = self.state, self.state.node
        progress, records, watch = state.progress, state.records, state.plan.config.watch
        per_epoch = state.plan.steps_per_epoch
        end = min((state.step // per_epoch + 1) * per_epoch, state.plan.num_steps)
        with closing(node.batches_ahead()) as batches:
            while (step := state.step) < end:
                progress.losses += node.train_step(batches)
                progress.train_seconds += node.last_step_seconds["total"]
                step += 1
                self._mark_step(step)
                if watch.track_detailed_time:
                    records.write("step", step, {"step_seconds": node.last_step_seconds})
                if step == state.first_step + UNTIMED_STEPS:
                    node.restart_timer()
                if step % watch.summary_freq == 0:
                    progress.losses += node.outstanding_losses()
                    self._record_training(step, progress.losses[-1])
                self._bar.update()
                if step < end:  # the end of an epoch is a synchronisation point in any case
                    decision = self._sync_points.after_step(step)
                    if decision.stop or decision.save:
                        self._save()
                    if decision.stop:
                        self._stop()

    def _end_epoch(self) -> None:
        """Record the epoch's loss, then checkpoint and evaluate if due."""
        state, node = self.state, self.state.node
        progress, watch, step = state.progress, state.plan.config.watch, state.step
        epoch = -(-step // state.plan.steps_per_epoch)
        self._gather_losses()
        loss = sum(progress.losses) / len(progress.losses)
        progress.loss = mean(state.communicator, {"loss": loss})["loss"]
        if (
            step % state.plan.steps_per_epoch == 0
        ):  # a partial last epoch continues if num_steps grows
            progress.losses = []
            node.schedule.observe(progress.loss)
        decision = self._sync_points.synchronise(step)
        if watch.saves_model_after(epoch):
            state.records.write_model(node.model, epoch)
        by_epochs = watch.checkpoint_minutes is None or watch.saves_model_after(epoch)
        due = not watch.train_fast and (decision.save or by_epochs)
        if due or decision.stop or step == state.plan.num_steps:
            self._save()
        if decision.stop:
            self._stop()
        self._evaluate_if_due(epoch)

    def _gather_losses(self) -> None:
        """Collect pending losses; sum them on the node's first process."""
        node, progress = self.state.node, self.state.progress
        progress.losses += node.outstanding_losses()
        node.average_statistics()
        progress.losses = sums_on_first(node.local_ranks, progress.losses, self.state.step)

    def _save(self) -> None:
        """Write a checkpoint; all nodes call it at the same step."""
        state, node = self.state, self.state.node
        node.finish()
        self._gather_losses()
        content = node.state_dict()
        state.progress.bytes_sent = state.communicator.bytes_sent
        state.progress.log_bytes = state.records.log_bytes()
        self._checkpoints.save(
            {**content, "progress": vars(state.progress)},
            node.optimizer.layout,
            step=state.step,
            steps_per_epoch=state.plan.steps_per_epoch,
            folders=state.members,
            graph=state.plan.topology,
            communicator=state.communicator,
        )

    def _stop(self) -> NoReturn:
        """Close the records, after a checkpoint, and raise Preempted."""
        self.state.records.close()
        raise Preempted(self.state.records.folder, self.state.step)

    def _record_training(self, step: int, loss: float) -> None:
        node = self.state.node
        rate = node.optimizer.param_groups[0]["lr"]
        (loss,) = sums(node.local_ranks, [loss], step)
        seconds = self.state.step_seconds()
        self.state.records.write(
            "train", step, {"loss": loss, "learning_rate": rate, "step_seconds": seconds}
        )

    def _evaluate_if_due(self, epoch: int) -> None:
        watch = self.state.plan.config.watch
        due = epoch % watch.eval_freq == 0 and not watch.train_fast
        if due and self.state.step < self.state.plan.num_steps:
            result = self._evaluate(watch.evaluate_avg, watch.evaluate_consensus)
            report(self.state, result, self.state.progress.loss)

    def _evaluate(self, averaged: bool, consensus: bool) -> Evaluation:
        self.state.communicator.fail_point("evaluate", self.state.step)
        node = self.state.node
        return evaluate(
            node.model,
            node.dataset,
            self.state.communicator,
            amp=node.amp,
            averaged=averaged,
            consensus=consensus,
        )

    def evaluate(self, files: Sequence[Path]) -> dict[str, Any]:
        """Evaluate models; return the summary, the same on every node.

        Args:
            files: of models, by rank.
        """
        state, watch = self.state, self.state.plan.config.watch
        load_model(state.node.model, files[state.node.rank])
        when = "" if watch.checkpoint_index is None else f" after epoch {watch.checkpoint_index}"
        state.say(f"models of {watch.resume}{when}")
        state.write_config()
        return self._end(None, "evaluated")

    def _end(self, loss: float | None, exit_reason: str) -> dict[str, Any]:
        """Evaluate everything at the end, and write it; return the summary."""
        state = self.state
        seconds = state.step_seconds()
        before = final = self._evaluate(averaged=True, consensus=True)
        report(state, before, loss)
        if state.plan.config.learning.avg_model:
            average_model(state.node.model, state.communicator)
            final = averaged(state, before)
        summary = make_summary(
            state, before, final, loss=loss, seconds=seconds, exit_reason=exit_reason
        )
        state.records.write_model(state.node.model)
        state.communicator.barrier()
        if state.is_first:
            state.records.write_summary(summary)
        state.records.close()
        return summary
