"""Going on after a failure: without the nodes that died, and with those healed that fell sick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pcode.communication import Communicator
from pcode.communication.gathering import average_among, gather_floats
from pcode.injection import Injector
from pcode.training.node import Node
from pcode.training.running import Running
from pcode.training.start import lock
from pcode.utils.errors import CommunicationError, DivergenceError


def go_on(
    running: Running, error: CommunicationError | DivergenceError, injector: Injector
) -> None:
    """Let a run go on with the nodes that are left, after an error of this node or of another.

    Raises:
        CommunicationError: those that are left cannot agree.
        DivergenceError: no node is healthy.
    """
    communicator, was_first = running.communicator, running.is_first
    sick = isinstance(error, DivergenceError) and (
        error.ranks is None or communicator.rank in error.ranks
    )
    if isinstance(error, DivergenceError):
        communicator.report(error, running.step)
    before, alive, regrouped = running.members, list(range(communicator.num_nodes)), None
    while regrouped is None:
        communicator, survivors = communicator.recover()
        injector.listen(communicator)
        alive = [alive[rank] for rank in survivors]
        running.members = [before[rank] for rank in alive]
        try:
            regrouped = regroup(running.node, communicator, alive, sick, injector)
        except Incurable as cause:
            raise (cause.divergence or error) from None
        except CommunicationError:  # another node has died meanwhile
            continue
    _check_progress(running, regrouped)
    lost = [member for rank, member in enumerate(before) if rank not in alive]
    running.node = regrouped.node
    running.progress.losses = []
    healed = [running.members[rank] for rank in regrouped.healed]
    running.progress.events.append({"step": running.step, "lost": lost, "healed": healed})
    if running.is_first and not was_first:
        running.records.lead(lock(running.records.folder))
    if lost:
        graph = running.plan.topology
        running.say(
            f"lost the nodes {', '.join(lost)}; {len(alive)} go on from step {running.step} on a "
            f"graph {graph.name}, spectral gap {graph.spectral_gap:.3g}"
        )
    if healed:
        running.say(f"step {running.step}: {', '.join(healed)} took the model of the others")


def _check_progress(running: Running, regrouped: Regrouped) -> None:
    """Give up where nodes are healed again and again: the others' models do not help.

    Raises:
        DivergenceError: on all nodes, where an epoch has seen more healings than nodes.
    """
    plan = regrouped.node.plan
    since = regrouped.node.optimizer.num_steps - plan.steps_per_epoch
    events = running.progress.events
    healings = [len(event.get("healed", ())) for event in events if event["step"] > since]
    if sum(healings) + len(regrouped.healed) > plan.topology.num_nodes:
        raise DivergenceError(
            f"nodes were healed {sum(healings)} times within an epoch, in vain: {running.step} "
            "steps"
        )


@dataclass(frozen=True)
class Regrouped:
    """A node among those that are left.

    Attributes:
        healed: the ranks of those whose numbers were not finite.
    """

    node: Node
    healed: list[int]


def regroup(
    old: Node,
    communicator: Communicator,
    survivors: Sequence[int],
    is_sick: bool,
    injector: Injector,
) -> Regrouped:
    """Make a node among those that are left; all of them call it together.

    The plan is made again for so many nodes: graph, weights, partition, steps of an epoch. All go
    on from where the one that is furthest stands, in epochs, and from the mean model of those that
    are healthy; what an optimizer keeps of its neighbours is rebuilt by one exchange. From models
    of their own they would start with copies that are exact while the models are apart: sign-CHOCO
    with its usual gamma then drives them further apart (seen on a ring of 8 that lost 2).

    Args:
        old: the node until now.
        communicator: of those that are left.
        survivors: their ranks before, ascending.
        is_sick: whether this node's numbers are not finite.

    Raises:
        CommunicationError: another node failed meanwhile.
        Incurable: no healthy node is left, or none is sick or lost.
    """
    old.optimizer.abandon()
    plan = old.plan.for_survivors(survivors)
    is_sick = is_sick or not _is_finite(old)
    epoch = old.optimizer.num_steps / old.plan.steps_per_epoch
    rows = gather_floats(communicator, [epoch, is_sick])
    step = plan.steps_after(max(row[0] for row in rows))
    sick = [rank for rank, row in enumerate(rows) if row[1]]
    if len(sick) == len(rows):
        raise Incurable(DivergenceError(f"no node is left whose numbers are finite, step {step}"))
    if not sick and len(survivors) == old.communicator.num_nodes:
        raise Incurable(None)
    node = Node(plan, communicator, injector, old.device)
    node.hand_on(old.state_dict(), step)
    average_healthy(node, sick)
    node.optimizer.rebuild()
    return Regrouped(node, sick)


class Incurable(Exception):  # noqa: N818  # what led here is the error
    """There is nobody whose model the others could take, or nothing to mend.

    Args:
        divergence: in the first case, the error, the same on all nodes.
    """

    def __init__(self, divergence: DivergenceError | None) -> None:
        self.divergence = divergence
        super().__init__()


def _is_finite(node: Node) -> bool:
    """Whether its model and momentum are; it may have been told of another's before it noticed."""
    tensors = [node.optimizer.x, *node.model.buffers(), *node.optimizer.local.vectors.values()]
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def average_healthy(node: Node, sick: Sequence[int]) -> None:
    """Give every node the healthy ones' mean model and momentum; all nodes call it.

    What an optimizer with error feedback has not sent yet starts again from 0 on a sick node.

    Args:
        sick: ranks; not all of them.
    """
    if node.rank in sick:
        for vector in node.optimizer.state_dict()["vectors"].values():
            vector.zero_()
    buffers = [buffer for buffer in node.model.buffers() if buffer.is_floating_point()]
    healthy = [rank for rank in range(node.communicator.num_nodes) if rank not in sick]
    average_among(
        node.communicator,
        [node.optimizer.x, *buffers, *node.optimizer.local.vectors.values()],
        healthy,
    )
