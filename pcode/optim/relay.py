"""RelaySGD: sums of models that travel through a tree."""

from typing import Any

import torch

from pcode.optim.base import DecentralizedOptimizer
from pcode.topology.base import Graph, Topology
from pcode.utils.errors import UserError


class RelaySGD(DecentralizedOptimizer):
    """x -= lr d ; m_ij = x + sum_k m_ki ; c_ij = 1 + sum_k c_ki, over the neighbours k but j, and
    x = (sum_j m_ji + (n - sum_j c_ji) x) / n.

    On a tree every node's model of t steps ago reaches the nodes t edges away, once and undiluted,
    in a sum m that comes with its number c of models. x becomes the mean of all of them, of their
    ages; what has not come yet is replaced by the node's own. All m and c start at 0. Messages are
    different for each neighbour: two vectors a neighbour are in memory.

    Source: Vogels et al., "RelaySum for decentralized deep learning on heterogeneous data", NeurIPS
    2021, arXiv 2110.04175, Algorithm 1. Difference: momentum, Adam and several local steps belong
    to the local step.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._neighbours = self.topology.at(0).senders(self.communicator.rank)
        shape = len(self._neighbours), self.x.numel() + 1
        # m, and c in the last entry.
        self.received, self._sent = self.x.new_zeros(shape), self.x.new_zeros(shape)
        self._total = self.x.new_zeros(shape[1])

    @classmethod
    def validate(cls, topology: Graph, **given: Any) -> None:
        super().validate(topology, **given)
        assert isinstance(topology, Topology)  # it says so of no other
        if len(topology.edges) != topology.num_nodes - 1:
            raise UserError(
                f"it relays sums through a tree, and {topology.name!r} has circles: "
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
            self.communicator.exchange(
                dict(zip(self._neighbours, self._sent, strict=True)),
                dict(zip(self._neighbours, self.received, strict=True)),
                self.num_steps,
            ).wait()
        with self.timer("mix"):
            models, number = self._sum_up()
            size = self.communicator.size
            # One of the models is its own.
            self.x.mul_((size - number) / size).add_(models, alpha=1 / size)

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
