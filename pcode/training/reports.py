"""What a run says of itself: before it starts, on its way, and in its summary."""

import dataclasses
import shlex
from typing import Any

from pcode.communication.gathering import gather_digests, gather_floats, mean
from pcode.config import to_yaml
from pcode.optim import AllReduceSGD
from pcode.topology import Graph, Lossy, Topology, without_losses
from pcode.training.evaluation import Evaluation
from pcode.training.node import parameters_digest
from pcode.training.plan import Plan
from pcode.training.state import RunState
from pcode.utils.timing import PARTS


def headline(plan: Plan) -> list[str]:
    """Return what a run does, in a few lines, after the curve of gamma where it was searched."""
    config, topology = plan.config, plan.topology
    rates = [plan.schedule(rank) for rank in range(topology.num_nodes)]
    peaks = sorted({f"{schedule.peak:g}" for schedule in rates}, key=float)
    rate = peaks[0] if len(peaks) == 1 else f"{peaks[0]} to {peaks[-1]}"
    optimizer = config.learning.optimizer
    if plan.optimizer.compresses:
        optimizer += f", {config.graph.comm_op}"
    if config.options["consensus_stepsize"] is not None:
        optimizer += f", gamma {config.options['consensus_stepsize']:g}"
    lines = [
        f"{config.model.arch} ({plan.layout.num_entries:,} parameters) on {config.data.data}, "
        f"{_nodes(plan)}, {topology.name}, spectral gap {topology.spectral_gap:.3g}"
        f"{_lost(topology)}",
        f"{optimizer}, learning rate {rate}, {plan.message_bytes:,} bytes a message, "
        f"{plan.num_steps} steps",
    ]
    if plan.optimizer.compresses:
        lines.append(f"{config.graph.comm_op}: {plan.compressor.description}")
    notes = plan.optimizer.notes(**config.flat())
    lines += [f"{config.learning.optimizer}: {note}" for note in notes]
    return [*(plan.search.lines() if plan.search else ()), *lines]


def _nodes(plan: Plan) -> str:
    """Return how many there are, and of how many processes."""
    launch, num_nodes = plan.config.launch, plan.topology.num_nodes
    if launch.n_sub_process == 1:
        return f"{num_nodes} nodes"
    kind = "GPUs" if launch.on_cuda else "processes"
    each = plan.config.data.batch_size // launch.n_sub_process
    what = "samples" if plan.dataset.labelled else "columns"
    return f"{num_nodes} nodes of {launch.n_sub_process} {kind} with {each} {what} of a batch each"


def _lost(topology: Graph) -> str:
    return f", {topology.probability:.3g} of messages lost" if isinstance(topology, Lossy) else ""


def _from_to(numbers: list[int]) -> str:
    return " to ".join(map(str, sorted({min(numbers), max(numbers)})))


def _graph(plan: Plan) -> list[str]:
    topology = plan.topology
    degrees = [topology.degree(rank) for rank in range(topology.num_nodes)]
    lines = [
        f"graph: {topology.name}, {_nodes(plan)}{_lost(topology)}",
        f"  neighbours of a node: {_from_to(degrees)}",
        f"  spectral gap rho: {topology.spectral_gap:.4g}",
    ]
    topology = without_losses(topology)
    if isinstance(topology, Topology):
        edges = [f"{i}-{j}" for i, j in topology.edges]
        shown = " ".join(edges[:32]) + (" ..." if len(edges) > 32 else "")
        lines[0] += f", {len(edges)} edges: {shown}"
        lines.append(f"  beta = ||I - W||: {topology.beta:.4g}")
    return lines


def _data(plan: Plan) -> list[str]:
    data, dataset = plan.config.data, plan.dataset
    dealt = f"dealt by --partition_data {data.dealing}"
    if data.reshuffle_per_epoch:
        dealt += ", anew every epoch"
    kind = "samples" if dataset.labelled else "columns of the text"
    return [
        f"data: {len(dataset.train_targets):,} {kind} for training, {dealt}",
        f"  of a node: {_from_to([len(share) for share in plan.partition(epoch=0)])}",
        f"  for testing: {dataset.num_test:,}",
    ]


def _gamma(plan: Plan) -> list[str]:
    delta = plan.compressor.contraction(plan.layout)
    assert isinstance(plan.topology, Topology), "no optimizer with gamma takes another graph"
    guard = "none, it is no contraction"
    if delta > 0:
        guard = f"{plan.topology.theoretical_gamma(delta):.3g}; tuned values are far larger"
    return [
        *(plan.search.lines() if plan.search else ()),
        f"consensus step size gamma: {plan.config.options['consensus_stepsize']:g}",
        f"  that of CHOCO-SGD's theory for delta = {delta:.3g}: {guard}",
    ]


def _traffic(plan: Plan) -> list[str]:
    learning, topology, full = plan.config.learning, plan.topology, 4 * plan.layout.num_entries
    degrees = [topology.degree(rank) for rank in range(topology.num_nodes)]
    often = "a step"
    if learning.local_step > 1:
        often = (
            f"every {learning.local_step} steps, from epoch {learning.turn_on_local_step_from} on"
        )
    what = plan.compressor.description if plan.optimizer.compresses else "float32"
    sent = f"a node sends {_from_to(degrees)} of them {often}"
    if plan.optimizer is AllReduceSGD:
        sent = f"it is summed over all nodes, once {often}"
    return [
        f"message: {plan.message_bytes:,} bytes ({what}), "
        f"{full / plan.message_bytes:.3g} times less than the model",
        f"  {sent}",
        f"steps: {plan.num_steps}, {plan.steps_per_epoch} an epoch",
    ]


def _rates(plan: Plan) -> list[str]:
    """Return the learning rate at the epochs where its course changes."""
    schedule = plan.schedule(0)
    lines = [f"learning rate by epoch (rank 0): {schedule.scheme.description}"]
    lines += [f"  {epoch:g}: {schedule(epoch):.6g}" for epoch in schedule.turning_points]
    others = {plan.schedule(rank).peak for rank in range(plan.topology.num_nodes)}
    if len(others) > 1:
        lines.append(f"  between nodes it peaks at {min(others):g} to {max(others):g}")
    return lines


def describe(plan: Plan, command: list[str]) -> str:
    """Return all that `--dry_run` prints.

    Args:
        command: the mpirun command, empty where the nodes run in this process.
    """
    lines = ["command: none, in this process"]
    if command:
        lines = ["command:", "  " + shlex.join(command)]
    lines += ["configuration:", *(f"  {line}" for line in to_yaml(plan.config).splitlines())]
    lines += [*_data(plan), *_graph(plan)]
    if plan.config.options["consensus_stepsize"] is not None:
        lines += _gamma(plan)
    return "\n".join([*lines, *_traffic(plan), *_rates(plan)])


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
    """Return what all nodes have after averaging: the model that they have evaluated together."""
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
    """Return what a summary can say of a run that ended in any way."""
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
    """Sum up a run that came to its end, the same on every node; all of them call it.

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
