"""D-PSGD: neighbours average their models after every local step, without compression."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from pcode.communication.base import Communicator
from pcode.optim.base import Law
from pcode.topology.base import Topology


class DPSGD(Law):
    """x_i <- sum_j w_ij (x_j - lr d_j).

    Source: Lian et al., "Can decentralized algorithms outperform centralized algorithms?",
    NeurIPS 2017, Algorithm 1. Difference: the gradient is taken at the node's own x and the step
    is made before mixing, as in the experiments of arXiv 1907.09356.
    """

    def __init__(
        self, params: Iterable[Any], communicator: Communicator, topology: Topology, **local: Any
    ) -> None:
        super().__init__(params, communicator, topology, **local)
        self._weights = topology.weights(communicator.rank)
        self._received = {
            peer: torch.empty_like(self.x) for peer in topology.neighbours(communicator.rank)
        }

    def _recursion(self) -> None:
        self.local_step()
        with self.timer("wait"):
            outgoing = dict.fromkeys(self._received, self.x)
            self.communicator.exchange(outgoing, self._received, self.num_steps).wait()
        with self.timer("mix"):
            self.x.mul_(self._weights.get(self.communicator.rank, 0.0))
            for peer, x_j in self._received.items():
                self.x.add_(x_j, alpha=self._weights[peer])
