"""What happens when a rank dies, or when a node's numbers are no longer finite; stage by stage.

loop.py decides. Stopping: main.py and restarts.py. Continuing: this file.

1. *It is noticed.* With `--on_failure stop` (the default) mpirun ends all of its ranks when one
   dies: stage 2 begins with the launcher. With `continue`, or where no mpirun started the ranks,
   an exchange that waits in vain is a CommunicationError, on a neighbour first (in
   `optimizer.step()`), and on all others because the communicator reports it; a loss or message
   that is not finite is a DivergenceError on its own node.
2. *It reaches `Loop.train`* (loop.py). With `--on_failure stop` it ends the process: `run_node`
   puts the nodes' names into it, and writes a summary of a run that diverged; main.py aborts, so
   that mpirun ends the other ranks; the launcher (restarts.py) starts all of them again from the
   last checkpoint, at most `--max_restarts` times: by default never, and the run ends.
3. *With `--on_failure continue`* (mpi and sim alone, and nodes of one process: planning.py) it
   reaches `continue_after`, on all nodes that live. What that raises ends the process as in 2.
   a. it calls `Communicator.recover`, and a node that diverged says why, so that the others leave
      their exchanges too;
   b. that agrees on who lives, and gives them a communicator of their own;
   c. `regroup` gives up the pending exchange, plans for so many nodes, and makes a node of that
      plan (with buffers of its own) from the mean model and momentum of those that are finite;
      where another node dies meanwhile, again from b;
   d. the run's state takes the new node over; the first node left keeps the run's records.
4. *`Loop.train` goes on* from the epoch, as a fraction, that the furthest node had reached.
"""

from collections.abc import Sequence

import torch

from pcode.communication import Communicator
from pcode.communication.gathering import average, gather_floats
from pcode.training.node import Node
from pcode.training.records import lock
from pcode.training.state import RunState
from pcode.utils.errors import CommunicationError, DivergenceError


def continue_after(state: RunState, error: CommunicationError | DivergenceError) -> None:
    """Let a run go on with the nodes that are left, after an error of this node or of another.

    Raises:
        CommunicationError: those that are left cannot agree or hear each other, or nobody died or
            diverged.
        DivergenceError: no node's numbers are finite, or nodes were restored again and again.
    """
    communicator = state.communicator
    was_first = communicator.is_first
    diverged = isinstance(error, DivergenceError) and (
        error.ranks is None or communicator.rank in error.ranks
    )
    reason = str(error) if isinstance(error, DivergenceError) else ""
    before, alive = state.members, list(range(communicator.size))
    attempts = 0  # since a node died
    while True:
        try:
            communicator, survivors = communicator.recover(reason)
        except CommunicationError as failure:
            why = {"reason": f"{failure.reason}, after this: {error}"}
            raise CommunicationError(**vars(failure) | why) from error
        attempts = attempts + 1 if len(survivors) == len(alive) else 0
        reason = ""
        alive = [alive[rank] for rank in survivors]
        state.members = [before[rank] for rank in alive]
        try:
            regrouped = regroup(state.node, communicator, alive, diverged)
            break
        except CommunicationError:
            if attempts > len(alive):  # each may have interrupted one, as it diverged: it is late
                raise
    if regrouped is None:
        raise error
    node, restored_ranks = regrouped
    _check_progress(state, node, len(restored_ranks))
    lost = [member for rank, member in enumerate(before) if rank not in alive]
    restored = [state.members[rank] for rank in restored_ranks]
    state.node = node
    state.progress.losses = []
    state.progress.events.append({"step": state.step, "lost": lost, "healed": restored})
    if state.communicator.is_first and not was_first:
        state.records.lead(lock(state.records.folder))
    if lost:
        graph = state.plan.topology
        state.say(
            f"lost the nodes {', '.join(lost)}; {len(alive)} go on from step {state.step} on a "
            f"graph {graph.name}, spectral gap {graph.spectral_gap:.3g}"
        )
    if restored:
        state.say(f"step {state.step}: {', '.join(restored)} took the model of the others")


def _check_progress(state: RunState, node: Node, num_restored: int) -> None:
    """Give up, on all nodes, where an epoch has seen more restorations than nodes."""
    since = node.optimizer.num_steps - node.plan.steps_per_epoch
    events = state.progress.events
    restorations = [len(event.get("healed", ())) for event in events if event["step"] > since]
    if sum(restorations) + num_restored > node.plan.topology.num_nodes:
        raise DivergenceError(
            f"nodes were restored {sum(restorations)} times within an epoch, in vain: "
            f"{state.step} steps"
        )


def regroup(
    old: Node, communicator: Communicator, survivors: Sequence[int], is_diverged: bool
) -> tuple[Node, list[int]] | None:
    """Make a node among those that are left; all of them call it together.

    The plan is made again for so many nodes: graph, weights, partition, steps of an epoch. All go
    on from where the one that is furthest stands, in epochs, and from the mean model of those that
    are finite; what an optimizer keeps of its neighbours is synchronised again by one exchange.
    From models of their own they would start with copies that are exact while the models are apart:
    sign-CHOCO with its usual gamma then drives them further apart (seen on a ring of 8 that lost
    2).

    Args:
        old: the node until now.
        communicator: of those that are left.
        survivors: their ranks before, ascending.
        is_diverged: whether this node's numbers are not finite.

    Returns:
        The node, and the ranks of those whose numbers were not finite; None where there are none
        and nobody was lost, so that there is nothing to mend.

    Raises:
        CommunicationError: another node failed meanwhile.
        DivergenceError: no node is left whose numbers are finite.
    """
    old.optimizer.cancel_pending()
    plan = old.plan.for_survivors(survivors)
    # A peer may have reported before this node noticed.
    finite = all(bool(tensor.isfinite().all()) for tensor in _model_and_momentum(old))
    is_diverged = is_diverged or not finite
    epoch = old.optimizer.num_steps / old.plan.steps_per_epoch
    rows = gather_floats(communicator, [epoch, is_diverged, old.optimizer.num_exchanges])
    step = plan.steps_after(max(row[0] for row in rows))
    diverged = [rank for rank, row in enumerate(rows) if row[1]]
    if len(diverged) == len(rows):
        raise DivergenceError(f"no node is left whose numbers are finite, step {step}")
    if not diverged and len(survivors) == old.communicator.size:
        return None
    node = Node(plan, communicator, old.device)
    node.warm_start(old.state_dict(), step)
    # Nodes may have made other numbers of steps before they knew: all exchange together from here.
    node.optimizer.num_exchanges = int(max(row[2] for row in rows))
    node.optimizer.steps_since_exchange = 0
    _average_finite(node, diverged)
    node.optimizer.resynchronise()
    return node, diverged


def _model_and_momentum(node: Node) -> list[torch.Tensor]:
    buffers = [buffer for buffer in node.model.buffers() if buffer.is_floating_point()]
    return [node.optimizer.x, *buffers, *node.optimizer.local.vectors.values()]


def _average_finite(node: Node, diverged: Sequence[int]) -> None:
    """Give every node the mean model and momentum of those that are finite.

    What an optimizer with error feedback has not sent yet starts again from 0 on a diverged node.
    """
    if node.rank in diverged:
        for vector in node.optimizer.state_dict()["vectors"].values():
            vector.zero_()
    finite = [rank for rank in range(node.communicator.size) if rank not in diverged]
    average(node.communicator, _model_and_momentum(node), finite)
