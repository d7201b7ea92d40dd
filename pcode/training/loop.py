"""A node's run from its start to its summary: steps, epochs, checkpoints, evaluations, errors."""

import errno
import math
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pcode.communication import Communicator, ProcessCommunicator, by_nodes
from pcode.communication.checksums import EdgeChecksums
from pcode.communication.gathering import mean, sums, sums_on_first
from pcode.communication.injection import inject
from pcode.training.checkpoint import (
    Checkpoints,
    Manifest,
    graph_digest,
    read_manifest,
    saved_steps,
)
from pcode.training.evaluation import Evaluation, average_model, evaluate
from pcode.training.plan import Plan
from pcode.training.records import load_model, runs_folder
from pcode.training.recovery import continue_after
from pcode.training.reports import averaged, known_figures, make_summary, report
from pcode.training.state import RunState
from pcode.training.sync import Decision, StopRequest, SyncPoints
from pcode.utils.errors import (
    CommunicationError,
    DamagedMessageError,
    DivergenceError,
    LoaderError,
    Preempted,
    RunError,
    StorageError,
    UserError,
    lacks_memory,
)
from pcode.utils.files import one_line

# Left out of the mean step times: kernels compile in the first steps.
UNTIMED_STEPS = 2
# What a disk says that takes no more.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)


def run_node(
    plan: Plan,
    processes: ProcessCommunicator,
    request: StopRequest,
    mark_step: Callable[[int], None] = lambda step: None,
    *,
    shows_progress: bool = False,
) -> tuple[dict[str, Any], Path]:
    """Train one node to the end, or evaluate it; return the run's summary and folder.

    Both are the same on every node.

    Args:
        processes: this process among all of the run; `--n_sub_process` in a row are a node.
        request: set when a signal asks the process to stop.
        mark_step: called with the number of steps made, before the first and after each.
        shows_progress: draw a bar on the standard error of the first node.

    Raises:
        UserError: what it starts from is damaged or does not fit.
        TakenError: on all nodes: another process trains it, or has since it was found.
        DivergenceError: after the summary has been written.
        Preempted: after a checkpoint has been written.
        StorageError: a file could not be written.
        LoaderError: the processes that load data failed.
        RunError: there is no more memory.
        CommunicationError: names rank and step.
        DamagedMessageError: names the edge and the step; no checkpoint holds what came of it.
    """
    launch = plan.config.launch
    communicator = by_nodes(processes, launch.n_sub_process, launch.time_limit_seconds)
    communicator = inject(communicator)
    if launch.checks_messages:
        communicator.checksums = EdgeChecksums()
    state: RunState | None = None
    try:
        state = RunState(plan, communicator)
        loop = Loop(state, request, mark_step, shows_progress=shows_progress)
        summary = loop.train() if plan.evaluated is None else loop.evaluate(plan.evaluated)
    except (DivergenceError, CommunicationError, DamagedMessageError) as error:
        if state is None:
            raise
        if isinstance(error, DivergenceError):
            raise _diverged(state, error.named(state.members)) from error
        raise error.named(state.members, state.step) from error
    except (OSError, LoaderError) as error:
        if isinstance(error, LoaderError):
            raise LoaderError(error.reason, **_place(state, communicator)) from error
        if error.filename is None and error.errno not in FULL:
            raise
        reason = f"{error.filename or runs_folder(plan.config)}: {error.strerror}"
        if state is not None:
            reason += f"; {_left_by(state.records.folder)}"
        raise StorageError(reason, **_place(state, communicator)) from error
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        reason = f"out of memory: {one_line(error)}"
        raise RunError(reason, **_place(state, communicator)) from error
    state.say(f"results: {state.records.folder}")
    return summary, state.records.folder


def _place(state: RunState | None, communicator: Communicator) -> dict[str, int | None]:
    """Return rank, by the name that the node had first, and step, for an error."""
    if state is None:
        return {"rank": communicator.rank, "step": None}
    return {"rank": int(state.records.own.name), "step": state.step}


def _left_by(run: Path) -> str:
    """Say what there is to go on from where a run could not write."""
    if not run.exists():
        return "the run's folder is gone"
    for step in reversed(saved_steps(run)):
        with suppress(UserError):
            return f"the checkpoint after step {read_manifest(run, step).step} is whole"
    return "there is no whole checkpoint"


def _diverged(state: RunState, error: DivergenceError) -> DivergenceError:
    """Write what this node knows of a run that cannot go on; return what ends it.

    Every node may be the first to find out, and the others are ended with it.
    """
    try:
        state.records.write_summary(known_figures(state, f"diverged: {error}"))
        state.records.close()
    except OSError as full:
        return DivergenceError(f"{error}; and no summary could be written: {full.strerror}")
    return error


class Loop:
    """The training loop of one node; the arguments are those of `run_node`."""

    def __init__(
        self,
        state: RunState,
        request: StopRequest,
        mark_step: Callable[[int], None],
        *,
        shows_progress: bool,
    ) -> None:
        self.state, self._request, self._mark_step = state, request, mark_step
        self._shows_progress = shows_progress
        records, writes = state.records, state.communicator.local_ranks.is_first
        watch = state.plan.config.watch
        self._checkpoints = Checkpoints(records.folder, records.own.name, watch, writes=writes)
        self._follow_members()

    def _follow_members(self) -> None:
        """Make what depends on who takes part: synchronisation points, a bar on the first node."""
        state, watch = self.state, self.state.plan.config.watch
        minutes = None if watch.train_fast else watch.checkpoint_minutes
        self._sync_points = SyncPoints(state.communicator, self._request, minutes)
        self._bar = tqdm(
            total=state.plan.num_steps,
            initial=state.step,
            unit="step",
            disable=not (state.communicator.is_first and self._shows_progress),
            leave=False,
        )

    def train(self) -> dict[str, Any]:
        """Train, evaluate and save; return the summary. After a failure: see recovery.py.

        Raises:
            Preempted: a signal asked for it, and a checkpoint was written.
        """
        state, start, has_begun = self.state, self.state.plan.start, False
        self._mark_step(state.first_step)
        while True:
            try:
                with self._bar:
                    if not has_begun:
                        if start is not None and not start.same:
                            self._save()  # from here on the source run is not needed
                        state.records.write_config(state.plan.config)
                    resumes = not has_begun and start is not None and start.same
                    has_begun = True
                    return self._train(resumes)
            except (CommunicationError, DivergenceError) as error:
                if state.plan.config.launch.on_failure != "continue":
                    raise
                continue_after(state, error)
                self._follow_members()

    def _train(self, resumes: bool) -> dict[str, Any]:
        """Train to the end; `resumes`: from a checkpoint, written before the epoch's evaluation."""
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
                    self._save_or_stop(self._sync_points.after_step(step))

    def _end_epoch(self) -> None:
        """Record the epoch's loss, then checkpoint and evaluate if due."""
        state, node = self.state, self.state.node
        progress, watch, step = state.progress, state.plan.config.watch, state.step
        epoch = -(-step // state.plan.steps_per_epoch)
        self._gather_losses()
        loss = sum(progress.losses) / len(progress.losses)
        progress.loss = mean(state.communicator, {"loss": loss})["loss"]
        if step % state.plan.steps_per_epoch == 0:  # a partial last one goes on if num_steps grows
            progress.losses = []
            node.schedule.scheme.observe(progress.loss)
        decision = self._sync_points.synchronise(step)
        if watch.saves_model_after(epoch):
            self._finish_exchanges()
            state.records.write_model(node.model, epoch)
        by_epochs = watch.checkpoint_minutes is None or watch.saves_model_after(epoch)
        due = (by_epochs and not watch.train_fast) or step == state.plan.num_steps
        self._save_or_stop(decision, due=due)
        self._evaluate_if_due(epoch)

    def _gather_losses(self) -> None:
        """Collect pending losses; sum them on the node's first process."""
        node, progress = self.state.node, self.state.progress
        progress.losses += node.outstanding_losses()
        node.average_statistics()
        progress.losses = sums_on_first(node.local_ranks, progress.losses, self.state.step)

    def _save_or_stop(self, decision: Decision, *, due: bool = False) -> None:
        """Write a checkpoint if it is due or asked for; then raise Preempted if it is to stop."""
        if due or decision.save or decision.stop:
            self._save()
        if decision.stop:
            self.state.records.close()
            raise Preempted(self.state.records.folder, self.state.step)

    def _finish_exchanges(self) -> None:
        """Complete what is under way between nodes, and see that no message was damaged."""
        self.state.node.finish()
        self.state.communicator.compare_messages(self.state.step)

    def _save(self) -> None:
        """Write a checkpoint; all nodes call it at the same step."""
        state, node = self.state, self.state.node
        self._finish_exchanges()
        self._gather_losses()
        content = node.state_dict()
        state.progress.bytes_sent = state.communicator.bytes_sent
        state.progress.log_bytes = state.records.log_bytes()
        content["progress"] = vars(state.progress)
        graph = graph_digest(state.plan.topology)
        manifest = Manifest(state.step, state.plan.steps_per_epoch, tuple(state.members), (), graph)
        self._checkpoints.save(content, node.optimizer.layout, manifest, state.communicator)

    def _record_training(self, step: int, loss: float) -> None:
        node = self.state.node
        rate = node.optimizer.param_groups[0]["lr"]
        (loss,) = sums(node.local_ranks, [loss], step)
        values = {"loss": loss, "learning_rate": rate, "step_seconds": node.step_seconds()}
        self.state.records.write("train", step, values)

    def _evaluate_if_due(self, epoch: int) -> None:
        watch = self.state.plan.config.watch
        due = epoch % watch.eval_freq == 0 and not watch.train_fast
        if due and self.state.step < self.state.plan.num_steps:
            result = self._evaluate(watch.evaluate_avg, watch.evaluate_consensus)
            report(self.state, result, self.state.progress.loss)

    def _evaluate(self, averaged: bool, consensus: bool) -> Evaluation:
        node, communicator = self.state.node, self.state.communicator
        communicator.fail_point("evaluate", self.state.step)
        kinds = {"averaged": averaged, "consensus": consensus}
        return evaluate(node.model, node.dataset, communicator, amp=node.amp, **kinds)

    def evaluate(self, files: Sequence[Path]) -> dict[str, Any]:
        """Evaluate models, by rank; return the summary."""
        state, watch = self.state, self.state.plan.config.watch
        load_model(state.node.model, files[state.node.rank])
        when = "" if watch.checkpoint_index is None else f" after epoch {watch.checkpoint_index}"
        state.say(f"models of {watch.resume}{when}")
        state.records.write_config(state.plan.config)
        return self._end(None, "evaluated")

    def _end(self, loss: float | None, exit_reason: str) -> dict[str, Any]:
        """Evaluate everything at the end, and write it; return the summary."""
        state = self.state
        seconds = state.node.step_seconds()
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
        if state.communicator.is_first:
            state.records.write_summary(summary)
        state.records.close()
        return summary
