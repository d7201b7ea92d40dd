"""RelaySGD: sums of models that travel through a tree."""

from __future__ import annotations

from typing import Any

import torch

from pcode.communication.base import Exchange
from pcode.compression.base import Compressor
from pcode.optim.base import DecentralizedOptimizer
from pcode.topology.base import Graph, Mixing, Topology
from pcode.topology.binary_tree import Trees
from pcode.topology.lossy import without_losses
from pcode.utils.errors import UserError
from pcode.utils.layout import Layout


class RelaySGD(DecentralizedOptimizer):
    """x -= lr d ; m_ij = x + sum_k m_ki ; c_ij = 1 + sum_k c_ki, over the neighbours k but j, and
    x = (sum_j m_ji + (n - sum_j c_ji) x) / n.

    On a tree every node's model of t steps ago reaches the nodes t edges away, once and undiluted,
    in a sum m that comes with its number c of models. x becomes the mean of all of them, of their
    ages; what has not come yet, or is lost, is replaced by the node's own. All m and c start at 0.
    On `double_binary_trees` each tree has half of x. Messages are different for each neighbour:
    there are two vectors a neighbour in memory.

    Source: Vogels et al., "RelaySum for decentralized deep learning on heterogeneous data", NeurIPS
    2021, arXiv 2110.04175, Algorithm 1. Difference: momentum, Adam and several local steps belong
    to the local step.
    """

    takes_losses = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        trees = _trees(self.topology)
        pieces = self.x.tensor_split(len(trees))
        self._relays = [
            _Relay(piece, tree.neighbours(self.communicator.rank))
            for piece, tree in zip(pieces, trees, strict=True)
        ]

    @classmethod
    def validate(cls, topology: Graph, **given: Any) -> None:
        super().validate(topology, **given)
        if any(len(tree.edges) != tree.num_nodes - 1 for tree in _trees(topology)):
            raise UserError(
                f"it relays sums through a tree, and {topology.name!r} has circles: "
                "--graph_topology double_binary_trees, binary_tree, chain, star or "
                f"spanning_tree:{topology.name}"
            )

    @classmethod
    def notes(cls, **flags: Any) -> list[str]:
        if flags["graph_topology"] != "double_binary_trees":
            return []
        return ["a neighbour in both trees gets two messages a step"]

    @classmethod
    def message_bytes_of(cls, layout: Layout, compressor: Compressor, **flags: Any) -> int:
        num_trees = 2 if flags.get("graph_topology") == "double_binary_trees" else 1
        return 4 * (-(-layout.num_entries // num_trees) + 1)

    def _recursion(self) -> None:
        self.take_local_step()
        with self.timer("mix"):
            for relay in self._relays:
                relay.write()
        round_, rank = self.topology.at(self.num_exchanges), self.communicator.rank
        with self.timer("wait"):
            for exchange in [self._send(relay, round_, rank) for relay in self._relays]:
                exchange.wait()
        with self.timer("mix"):
            for relay in self._relays:
                relay.read(round_.senders(rank), self.communicator.size)

    def _send(self, relay: _Relay, round_: Mixing, rank: int) -> Exchange:
        return self.communicator.exchange(
            {peer: relay.sent[peer] for peer in round_.receivers(rank) if peer in relay.sent},
            {peer: relay.received[peer] for peer in round_.senders(rank) if peer in relay.sent},
            self.num_steps,
        )

    def _vectors(self) -> dict[str, torch.Tensor]:
        return super()._vectors() | {
            f"received_{number}_{peer}": vector
            for number, relay in enumerate(self._relays)
            for peer, vector in relay.received.items()
        }

    def resynchronise(self) -> None:
        """Begin again with nothing from the neighbours."""
        for relay in self._relays:
            for received in relay.received.values():
                received.zero_()


class _Relay:
    """A piece of x on its tree. Vectors hold m, and c in the last entry.

    Attributes:
        sent, received: by neighbour.
    """

    def __init__(self, x: torch.Tensor, neighbours: tuple[int, ...]) -> None:
        self.x, size = x, x.numel() + 1
        self.sent = {peer: x.new_zeros(size) for peer in neighbours}
        self.received = {peer: x.new_zeros(size) for peer in neighbours}
        self.total = x.new_zeros(size)

    def _sum_up(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum of its own model and all that has come, and how many these are."""
        models, number = self.total[:-1], self.total[-1]
        models.copy_(self.x)
        number.fill_(1.0)
        for received in self.received.values():
            self.total.add_(received)
        return models, number

    def write(self) -> None:
        """Write what each neighbour gets."""
        self._sum_up()
        for peer, sent in self.sent.items():
            torch.sub(self.total, self.received[peer], out=sent)

    def read(self, came: tuple[int, ...], num_nodes: int) -> None:
        """Average with what has come from these; nothing came from the others."""
        for peer, received in self.received.items():
            if peer not in came:
                received.zero_()
        models, number = self._sum_up()
        # One of the models is its own.
        self.x.mul_((num_nodes - number) / num_nodes).add_(models, alpha=1 / num_nodes)


def _trees(graph: Graph) -> tuple[Topology, ...]:
    whole = without_losses(graph)
    assert isinstance(whole, Topology)  # it says so of no other
    return whole.trees if isinstance(whole, Trees) else (whole,)
