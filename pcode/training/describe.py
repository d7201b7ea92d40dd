"""A plan in words: what `--dry_run` prints, and the first lines of a run."""

import shlex

from pcode.config import to_yaml
from pcode.optim import AllReduceSGD
from pcode.topology import Topology
from pcode.training.plan import Plan


def headline(plan: Plan) -> list[str]:
    """What a run does, in two or three lines, after the curve of gamma where it was searched."""
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
        f"{_nodes(plan)}, {topology.name}, spectral gap {topology.spectral_gap:.3g}",
        f"{optimizer}, learning rate {rate}, {plan.message_bytes:,} bytes a message, "
        f"{plan.num_steps} steps",
    ]
    if plan.optimizer.compresses:
        lines.append(f"{config.graph.comm_op}: {plan.compressor.description}")
    return [*(plan.search.lines() if plan.search else ()), *lines]


def _nodes(plan: Plan) -> str:
    """How many there are, and of how many processes."""
    launch, num_nodes = plan.config.launch, plan.topology.num_nodes
    if launch.n_sub_process == 1:
        return f"{num_nodes} nodes"
    kind = "GPUs" if launch.on_cuda else "processes"
    each = plan.config.data.batch_size // launch.n_sub_process
    what = "samples" if plan.dataset.labelled else "columns"
    return f"{num_nodes} nodes of {launch.n_sub_process} {kind} with {each} {what} of a batch each"


def _from_to(numbers: list[int]) -> str:
    return " to ".join(map(str, sorted({min(numbers), max(numbers)})))


def _graph(plan: Plan) -> list[str]:
    topology = plan.topology
    degrees = [topology.degree(rank) for rank in range(topology.num_nodes)]
    lines = [
        f"graph: {topology.name}, {_nodes(plan)}",
        f"  neighbours of a node: {_from_to(degrees)}",
        f"  spectral gap rho: {topology.spectral_gap:.4g}",
    ]
    if isinstance(topology, Topology):
        edges = [f"{i}-{j}" for i, j in topology.edges]
        shown = " ".join(edges[:32]) + (" ..." if len(edges) > 32 else "")
        lines[0] += f", {len(edges)} edges: {shown}"
        lines.append(f"  beta = ||I - W||: {topology.beta:.4g}")
    return lines


def _data(plan: Plan) -> list[str]:
    data, dataset = plan.config.data, plan.dataset
    dealt = f"dealt by --partition_data {data.partition_data}"
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
        f"{full / plan.message_bytes:.3g} times less than float32",
        f"  {sent}",
        f"steps: {plan.num_steps}, {plan.steps_per_epoch} an epoch",
    ]


def _rates(plan: Plan) -> list[str]:
    """The learning rate at the epochs where its course changes."""
    schedule = plan.schedule(0)
    lines = [f"learning rate by epoch (rank 0): {schedule.scheme.description}"]
    lines += [f"  {epoch:g}: {schedule(epoch):.6g}" for epoch in schedule.turning_points]
    others = {plan.schedule(rank).peak for rank in range(plan.topology.num_nodes)}
    if len(others) > 1:
        lines.append(f"  between nodes it peaks at {min(others):g} to {max(others):g}")
    return lines


def describe(plan: Plan, command: list[str] | None) -> str:
    """All that `--dry_run` prints.

    Args:
        command: the mpirun command, or None where the nodes run in this process.
    """
    lines = ["command: none, in this process"]
    if command:
        lines = ["command:", "  " + shlex.join(command)]
    lines += ["configuration:", *(f"  {line}" for line in to_yaml(plan.config).splitlines())]
    lines += [*_data(plan), *_graph(plan)]
    if plan.config.options["consensus_stepsize"] is not None:
        lines += _gamma(plan)
    return "\n".join([*lines, *_traffic(plan), *_rates(plan)])
