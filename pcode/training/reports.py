"""What a run says of itself: lines, records and the summary."""

import dataclasses
from typing import Any

from pcode.communication.gathering import gather_digests, gather_floats, mean
from pcode.training.evaluation import Evaluation
from pcode.training.node import parameters_digest
from pcode.training.state import RunState
from pcode.utils.timing import PARTS


def report(state: RunState, result: Evaluation, loss: float | None) -> None:
    """Say and record an evaluation; loss: in training, mean over nodes and epoch."""
    _keep_best(state, result)
    task, step, sent = state.node.task, state.step, state.communicator.bytes_sent
    epoch = step / state.plan.steps_per_epoch
    worst = task.worst(result.per_node)
    values: dict[str, Any] = {"epoch": epoch}
    text = ""
    if loss is not None:
        values["train_loss"] = loss
        text = f"epoch {epoch:3g}: train loss {loss:.4f}, "
    values |= {
        f"test_{task.metric}": result.mean,
        f"worst_test_{task.metric}": worst,
        f"node_test_{task.metric}": result.per_node[state.communicator.rank],
        "test_loss": result.test_loss,
        "bytes_sent": sent,
        "bytes_sent_mean": mean(state.communicator, {"sent": sent})["sent"],
        "seconds": state.progress.train_seconds,
    }
    text += f"test {task.label} {task.text(result.mean)} (worst node {task.text(worst)})"
    if result.averaged_model is not None:
        values[f"averaged_model_test_{task.metric}"] = result.averaged_model
        text += f", averaged model {task.text(result.averaged_model)}"
    if result.consensus_distance is not None:
        values["consensus_distance"] = result.consensus_distance
        text += f", consensus distance {result.consensus_distance:.3g}"
    state.records.write("evaluation", step, values)
    state.say(text)
    seconds = state.node.step_seconds()
    if state.plan.config.watch.display_tracked_time and seconds is not None:
        cells = [f"{part} {1e3 * seconds[part]:.2f} ms" for part in PARTS]
        state.say(f"step {1e3 * seconds['total']:.2f} ms: " + ", ".join(cells))


def averaged(state: RunState, before: Evaluation) -> Evaluation:
    """What all nodes have after averaging: the model that they have evaluated together."""
    figure = before.averaged_model
    assert figure is not None, "at the end it is evaluated"
    final = dataclasses.replace(before, per_node=[figure] * len(before.per_node))
    _keep_best(state, final)
    task = state.node.task
    state.records.write("averaged", state.step, {f"test_{task.metric}": figure})
    state.say(f"averaged on all nodes: test {task.label} {task.text(figure)}")
    return final


def _keep_best(state: RunState, result: Evaluation) -> None:
    best, mean = state.progress.best, result.mean
    state.progress.best = mean if best is None else state.node.task.best(best, mean)


def known_figures(state: RunState, exit_reason: str) -> dict[str, Any]:
    """What a summary can say of a run that ended in any way."""
    plan, node, metric = state.plan, state.node, state.node.task.metric
    num_steps = node.optimizer.num_steps
    return {
        f"test_{metric}": None,
        f"test_{metric}_per_node": None,
        f"worst_test_{metric}": None,
        f"best_test_{metric}": state.progress.best,
        f"averaged_model_test_{metric}": None,
        "train_loss": None,
        "consensus_distance": None,
        "num_parameters": plan.layout.num_entries,
        "num_steps": num_steps,
        "num_epochs": num_steps / plan.steps_per_epoch,
        "message_bytes": plan.message_bytes,
        "bytes_sent_per_step": None,
        "bytes_sent_total": None,
        "train_seconds": state.progress.train_seconds,
        "step_seconds": None,
        "parameters_sha256": None,
        "learning_rate": node.optimizer.param_groups[0]["lr"],
        "consensus_stepsize": plan.config.options["consensus_stepsize"],
        "spectral_gap": plan.topology.spectral_gap,
        "events": state.progress.events,
        "exit_reason": exit_reason,
    }


def make_summary(
    state: RunState,
    before: Evaluation,
    final: Evaluation,
    *,
    loss: float | None,
    seconds: dict[str, float] | None,
    exit_reason: str,
) -> dict[str, Any]:
    """The summary of a run that came to its end, the same on every node; all of them call it.

    Args:
        before, final: the evaluation at the end, and that after the models were averaged.
        loss: of the last epoch, if there was training.
        seconds: of a step of this node, where it was measured.
    """
    communicator, metric = state.communicator, state.node.task.metric
    digest = parameters_digest(state.node.model)
    own = [float(communicator.bytes_sent), state.progress.train_seconds]
    sent, train_seconds = zip(*gather_floats(communicator, own), strict=True)
    return known_figures(state, exit_reason) | {
        f"test_{metric}": final.mean,
        f"test_{metric}_per_node": final.per_node,
        f"worst_test_{metric}": state.node.task.worst(final.per_node),
        f"averaged_model_test_{metric}": before.averaged_model,
        "train_loss": loss,
        "consensus_distance": before.consensus_distance,
        "bytes_sent_per_step": sum(sent) / len(sent) / max(state.step, 1),
        "bytes_sent_total": int(sum(sent)),
        "train_seconds": sum(train_seconds) / len(train_seconds),
        "step_seconds": mean(communicator, seconds) if seconds is not None else None,
        "parameters_sha256": gather_digests(communicator, digest),
    }
