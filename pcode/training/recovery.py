"""Going on after a failure: without the nodes that died, and with those healed that fell sick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pcode.communication import Communicator
from pcode.injection import Injector
from pcode.training.node import Node


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
    on from where the one that is furthest stands, in epochs. Each keeps its own model and
    momentum; a sick one takes its neighbours' mean instead. What a law keeps of its neighbours is
    rebuilt by one exchange.

    Args:
        old: the node until now.
        communicator: of those that are left.
        survivors: their ranks before, ascending.
        is_sick: whether this node's numbers are not finite.

    Raises:
        CommunicationError: another node failed meanwhile.
        Incurable: no healthy node is left, or none is sick or lost.
    """
    old.law.abandon()
    plan = old.plan.for_survivors(survivors)
    own = torch.tensor([old.law.num_steps / old.plan.steps_per_epoch, is_sick], dtype=torch.float64)
    rows = [row.tolist() for row in communicator.all_gather(own)]
    # Half a step more than rounding could take away.
    step = int(max(row[0] for row in rows) * plan.steps_per_epoch + 0.5)
    sick = [rank for rank, row in enumerate(rows) if row[1]]
    nothing_found = not sick and len(survivors) == old.communicator.num_nodes
    if nothing_found or len(sick) == len(rows):
        raise Incurable
    node = Node(plan, communicator, injector)
    node.hand_on(old.state_dict(), step)
    heal(node, sick)
    node.law.rebuild()
    return Regrouped(node, sick)


class Incurable(Exception):  # noqa: N818  # what led here is the error
    """There is nobody whose model the others could take, or nothing to mend."""


@torch.no_grad()
def heal(node: Node, sick: Sequence[int]) -> None:
    """Give every sick node its healthy neighbours' mean model; all nodes call it.

    Those without a healthy neighbour wait until one is healed. The mean is that by the weights of
    the graph, as first + sum_j w_j (x_j - first): the same bits where all are equal, as under a
    centralized law they have to be.

    Args:
        sick: ranks; not all of them.
    """
    rank, communicator, graph = node.rank, node.communicator, node.plan.topology
    buffers = [buffer for buffer in node.model.buffers() if buffer.is_floating_point()]
    tensors = [node.law.x, *(buffer.view(-1) for buffer in buffers)]
    flat = torch.cat(tensors)
    left, turn = set(sick), 0
    while left:
        mixing = graph.at(turn)
        turn += 1
        outgoing: dict[int, torch.Tensor] = {}
        incoming: dict[int, torch.Tensor] = {}
        if rank not in left:
            outgoing = dict.fromkeys((p for p in mixing.receivers(rank) if p in left), flat)
        else:
            healthy = (p for p in mixing.senders(rank) if p not in left)
            incoming = {peer: torch.empty_like(flat) for peer in healthy}
        communicator.exchange(outgoing, incoming, node.law.num_steps).wait()
        if incoming:
            weights = mixing.weights(rank)
            total = sum(weights[peer] for peer in incoming)
            first = next(iter(incoming.values())).clone()
            flat.copy_(first)
            for peer, other in incoming.items():
                flat.add_(other.sub_(first), alpha=weights[peer] / total)
        left -= {r for r in left if any(p not in left for p in mixing.senders(r))}
    if rank in sick:
        pieces = flat.split([tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece)
        for vector in node.law.state_dict()["vectors"].values():
            vector.zero_()
