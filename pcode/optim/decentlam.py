"""DecentLaM: momentum that does not add to the bias of unequal data."""

from typing import Any

import torch

from pcode.optim.base import DecentralizedOptimizer
from pcode.optim.gossip import VectorGossip
from pcode.optim.local import LocalSGD


class DecentLaM(DecentralizedOptimizer):
    """g' = (x - sum_j w_ij (x_j - lr g_j)) / lr ; m = momentum m + g' ; x -= lr m.

    The momentum is of the whole movement, mixing included, so that its fixed point is that of
    D-PSGD without momentum. m, which starts at 0, is the local step's; with nesterov x moves by
    g' + momentum m.

    Source: Yuan et al., "DecentLaM: decentralized momentum SGD for large-batch deep training",
    ICCV 2021, arXiv 2104.11981, Algorithm 2. Differences: weight decay is part of g; where the
    rate is 0, g' is g.
    """

    time_varying = True
    takes_adam = False
    takes_losses = True
    takes_local_steps = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gossip = VectorGossip(self.communicator, self.timer)
        self._moved = torch.empty_like(self.x)

    def _recursion(self) -> None:
        assert isinstance(self.local, LocalSGD)
        moved = self._moved
        with self.timer("local_update"):
            self.local.add_weight_decay()
            moved.copy_(self.x)
            self.apply(self.g, to=moved)
        # g' = g - (sum_j w_ij y_j - y_i) / lr, with y = x - lr g: g itself is not rounded.
        graph, step = self.topology.at(self.num_exchanges), self.num_steps
        mixed = self.gossip.difference(moved, graph, step)
        with self.timer("local_update"):
            self.divide_by_rate(mixed)
            self.g.sub_(mixed)
            self.local.add_direction(moved.zero_())
            self.apply(moved)
