"""RelaySGD: sums of models that travel through a tree."""

from typing import Any

import torch

from pcode.optim.base import DecentralizedOptimizer
from pcode.topology.base import Graph, Topology
from pcode.topology.lossy import without_losses
from pcode.utils.errors import UserError


class RelaySGD(DecentralizedOptimizer):
    """x -= lr d ; m_ij = x + sum_k m_ki ; c_ij = 1 + sum_k c_ki, over the neighbours k but j, and
    x = (sum_j m_ji + (n - sum_j c_ji) x) / n.

    On a tree every node's model of t steps ago reaches the nodes t edges away, once and undiluted,
    in a sum m that comes with its number c of models. x becomes the mean of all of them, of their
    ages; what has not come yet is replaced by the node's own. All m and c start at 0. Messages are
    different for each neighbour, and one that is lost is replaced by the node's own model, as one
    that has not come yet: two vectors a neighbour are in memory.

    Source: Vogels et al., "RelaySum for decentralized deep learning on heterogeneous data", NeurIPS
    2021, arXiv 2110.04175, Algorithm 1. Difference: momentum, Adam and several local steps belong
    to the local step.
    """

    takes_losses = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        tree = without_losses(self.topology).at(0)
        self._neighbours = tree.senders(self.communicator.rank)
        shape = len(self._neighbours), self.x.numel() + 1
        # m, and c in the last entry.
        self.received, self._sent = self.x.new_zeros(shape), self.x.new_zeros(shape)
        self._total = self.x.new_zeros(shape[1])

    @classmethod
    def validate(cls, topology: Graph, **given: Any) -> None:
        super().validate(topology, **given)
        tree = without_losses(topology)
        assert isinstance(tree, Topology)  # it says so of no other
        if len(tree.edges) != tree.num_nodes - 1:
            raise UserError(
                f"it relays sums through a tree, and {tree.name!r} has circles: "
                "--graph_topology chain, star or binary_tree"
            )

    @property
    def message_bytes(self) -> int:
        return self._total.nbytes

    def _recursion(self) -> None:
        self.take_local_step()
        with self.timer("mix"):
            self._sum_up()
            torch.sub(self._total, self.received, out=self._sent)
        with self.timer("wait"):
            self._exchange()
        with self.timer("mix"):
            models, number = self._sum_up()
            size = self.communicator.size
            # One of the models is its own.
            self.x.mul_((size - number) / size).add_(models, alpha=1 / size)

    def _exchange(self) -> None:
        """Send and receive; what is lost brings no models."""
        round_, rank = self.topology.at(self.num_exchanges), self.communicator.rank
        outgoing = dict(zip(self._neighbours, self._sent, strict=True))
        incoming = dict(zip(self._neighbours, self.received, strict=True))
        came = round_.senders(rank)
        exchange = self.communicator.exchange(
            {peer: outgoing[peer] for peer in round_.receivers(rank)},
            {peer: incoming[peer] for peer in came},
            self.num_steps,
        )
        exchange.wait()
        for peer in incoming.keys() - set(came):
            incoming[peer].zero_()

    def _sum_up(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum of its own model and all that has come, and how many have come."""
        models, number = self._total[:-1], self._total[-1]
        models.copy_(self.x)
        number.fill_(1.0)
        for received in self.received:
            self._total.add_(received)
        return models, number

    def _vectors(self) -> dict[str, torch.Tensor]:
        received = zip(self._neighbours, self.received, strict=True)
        return {**super()._vectors(), **{f"received_{peer}": row for peer, row in received}}

    def resynchronise(self) -> None:
        """Begin again with nothing from the neighbours."""
        self.received.zero_()
