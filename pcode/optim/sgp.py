"""Stochastic gradient push: averaging over links that need not lead both ways."""

from typing import Any

import torch

from pcode.compression.base import Compressor
from pcode.optim.base import DecentralizedOptimizer
from pcode.optim.gossip import VectorGossip
from pcode.topology.base import Graph
from pcode.topology.directed import Directed
from pcode.topology.lossy import Lossy
from pcode.utils.errors import UserError
from pcode.utils.layout import Layout


class SGP(DecentralizedOptimizer):
    """s_i = sum_j p_ij (s_j - lr d_j) ; w_i = sum_j p_ij w_j ; x = s / w.

    Gradients are taken at x. Columns of P sum to 1, so that the sum of s over the nodes moves by
    the local steps alone and the sum of w is n; rows need not, and w corrects for what they sum to.
    Where P is doubly stochastic w stays 1 and it is D-PSGD, also with lost messages. s starts at x,
    w at 1.

    Source: Assran et al., "Stochastic gradient push for distributed deep learning", ICML 2019,
    arXiv 1811.10792, Algorithm 1. Difference: momentum, Adam and several local steps belong to the
    local step.
    """

    time_varying = True
    takes_directed = True
    takes_losses = True
    state_vectors = ("sent",)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gossip = VectorGossip(self.communicator, self.timer)
        # s, and w in the last entry.
        self.sent = self.x.new_zeros(self.x.numel() + 1)

    @classmethod
    def validate(cls, topology: Graph, **given: Any) -> None:
        super().validate(topology, **given)
        if isinstance(topology, Lossy) and isinstance(topology.graph, Directed):
            raise UserError(
                "a lost weight goes to the receiver, so that columns do not sum to 1; no "
                f"--drop_messages with {topology.name!r}, whose links lead one way"
            )

    @classmethod
    def message_bytes_of(cls, layout: Layout, compressor: Compressor, **flags: Any) -> int:
        return 4 * (layout.num_entries + 1)

    def _start(self) -> None:
        self.resynchronise()

    def _recursion(self) -> None:
        s, w = self.sent[:-1], self.sent[-1]
        self.take_local_step()
        with self.timer("mix"):
            # s += x - s / w: what the local steps have moved x by since the exchange before.
            s.mul_(1 - 1 / w).add_(self.x)
        self.gossip(self.sent, self.topology.at(self.num_exchanges), self.num_steps)
        with self.timer("mix"):
            torch.div(s, w, out=self.x)

    def resynchronise(self) -> None:
        """Begin with equal weights."""
        self.sent[:-1].copy_(self.x)
        self.sent[-1] = 1.0
