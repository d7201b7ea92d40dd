"""Going on after a failure: without the nodes that died, and with those restored that diverged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pcode.communication import Communicator
from pcode.communication.gathering import average, gather_floats
from pcode.training.node import Node
from pcode.training.resume import lock
from pcode.training.state import RunState
from pcode.utils.errors import CommunicationError, DivergenceError


def go_on(state: RunState, error: CommunicationError | DivergenceError) -> None:
    """Let a run go on with the nodes that are left, after an error of this node or of another.

    Raises:
        CommunicationError: those that are left cannot agree.
        DivergenceError: no node's numbers are finite.
    """
    communicator, was_first = state.communicator, state.is_first
    diverged = isinstance(error, DivergenceError) and (
        error.ranks is None or communicator.rank in error.ranks
    )
    if isinstance(error, DivergenceError):
        communicator.report(error, state.step)
    before, alive, regrouped = state.members, list(range(communicator.size)), None
    while regrouped is None:
        communicator, survivors = communicator.recover()
        alive = [alive[rank] for rank in survivors]
        state.members = [before[rank] for rank in alive]
        try:
            regrouped = regroup(state.node, communicator, alive, diverged)
        except Unrecoverable as cause:
            raise (cause.divergence or error) from None
        except CommunicationError:  # another node has died meanwhile
            continue
    _check_progress(state, regrouped)
    lost = [member for rank, member in enumerate(before) if rank not in alive]
    state.node = regrouped.node
    state.progress.losses = []
    restored = [state.members[rank] for rank in regrouped.restored]
    state.progress.events.append({"step": state.step, "lost": lost, "healed": restored})
    if state.is_first and not was_first:
        state.records.lead(lock(state.records.folder))
    if lost:
        graph = state.plan.topology
        state.say(
            f"lost the nodes {', '.join(lost)}; {len(alive)} go on from step {state.step} on a "
            f"graph {graph.name}, spectral gap {graph.spectral_gap:.3g}"
        )
    if restored:
        state.say(f"step {state.step}: {', '.join(restored)} took the model of the others")


def _check_progress(state: RunState, regrouped: Regrouped) -> None:
    """Give up where nodes are restored again and again: the others' models do not help.

    Raises:
        DivergenceError: on all nodes, where an epoch has seen more restorations than nodes.
    """
    plan = regrouped.node.plan
    since = regrouped.node.optimizer.num_steps - plan.steps_per_epoch
    events = state.progress.events
    restorations = [len(event.get("healed", ())) for event in events if event["step"] > since]
    if sum(restorations) + len(regrouped.restored) > plan.topology.num_nodes:
        raise DivergenceError(
            f"nodes were restored {sum(restorations)} times within an epoch, in vain: "
            f"{state.step} steps"
        )


@dataclass(frozen=True)
class Regrouped:
    """A node among those that are left.

    Attributes:
        restored: the ranks of those whose numbers were not finite.
    """

    node: Node
    restored: list[int]


def regroup(
    old: Node,
    communicator: Communicator,
    survivors: Sequence[int],
    is_diverged: bool,
) -> Regrouped:
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

    Raises:
        CommunicationError: another node failed meanwhile.
        Unrecoverable: no node is left whose numbers are finite, or none has diverged or was lost.
    """
    old.optimizer.cancel_pending()
    plan = old.plan.for_survivors(survivors)
    is_diverged = is_diverged or not _is_finite(old)
    epoch = old.optimizer.num_steps / old.plan.steps_per_epoch
    rows = gather_floats(communicator, [epoch, is_diverged, old.optimizer.num_exchanges])
    step = plan.steps_after(max(row[0] for row in rows))
    diverged = [rank for rank, row in enumerate(rows) if row[1]]
    if len(diverged) == len(rows):
        raise Unrecoverable(
            DivergenceError(f"no node is left whose numbers are finite, step {step}")
        )
    if not diverged and len(survivors) == old.communicator.size:
        raise Unrecoverable(None)
    node = Node(plan, communicator, old.device)
    node.warm_start(old.state_dict(), step)
    # Nodes may have made other numbers of steps before they knew: all exchange together from here.
    node.optimizer.num_exchanges = int(max(row[2] for row in rows))
    node.optimizer.steps_since_exchange = 0
    average_finite(node, diverged)
    node.optimizer.resynchronise()
    return Regrouped(node, diverged)


class Unrecoverable(Exception):  # noqa: N818  # what led here is the error
    """There is nobody whose model the others could take, or nothing to mend.

    Args:
        divergence: in the first case, the error, the same on all nodes.
    """

    def __init__(self, divergence: DivergenceError | None) -> None:
        self.divergence = divergence
        super().__init__()


def _is_finite(node: Node) -> bool:
    """Whether its model and momentum are: a peer may have reported before this node noticed."""
    tensors = [node.optimizer.x, *node.model.buffers(), *node.optimizer.local.vectors.values()]
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def average_finite(node: Node, diverged: Sequence[int]) -> None:
    """Give every node the mean model and momentum of those that are finite; all nodes call it.

    What an optimizer with error feedback has not sent yet starts again from 0 on a diverged node.

    Args:
        diverged: ranks; not all of them.
    """
    if node.rank in diverged:
        for vector in node.optimizer.state_dict()["vectors"].values():
            vector.zero_()
    buffers = [buffer for buffer in node.model.buffers() if buffer.is_floating_point()]
    finite = [rank for rank in range(node.communicator.size) if rank not in diverged]
    average(
        node.communicator,
        [node.optimizer.x, *buffers, *node.optimizer.local.vectors.values()],
        finite,
    )
