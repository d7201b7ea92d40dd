"""D-PSGD: neighbours average their models after every local step, without compression."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from pcode.communication.base import Communicator
from pcode.optim.base import Law
from pcode.topology.base import Graph


class DPSGD(Law):
    """x_i <- sum_j w_ij (x_j - lr d_j), with the W of the round where the graph varies in time.

    Source: Lian et al., "Can decentralized algorithms outperform centralized algorithms?",
    NeurIPS 2017, Algorithm 1. Difference: the gradient is taken at the node's own x and the step
    is made before mixing, as in the experiments of arXiv 1907.09356.
    """

    time_varying = True

    def __init__(
        self, params: Iterable[Any], communicator: Communicator, topology: Graph, **local: Any
    ) -> None:
        super().__init__(params, communicator, topology, **local)
        # As many as the largest number of senders in a round so far.
        self._received: list[torch.Tensor] = []

    def _recursion(self) -> None:
        self.local_step()
        rank, mixing = self.communicator.rank, self.topology.at(self.num_exchanges)
        weights, senders = mixing.weights(rank), mixing.senders(rank)
        while len(self._received) < len(senders):
            self._received.append(torch.empty_like(self.x))
        incoming = dict(zip(senders, self._received, strict=False))
        with self.timer("wait"):
            outgoing = dict.fromkeys(mixing.receivers(rank), self.x)
            self.communicator.exchange(outgoing, incoming, self.num_steps).wait()
        with self.timer("mix"):
            self.x.mul_(weights.get(rank, 0.0))
            for peer, x_j in incoming.items():
                self.x.add_(x_j, alpha=weights[peer])
