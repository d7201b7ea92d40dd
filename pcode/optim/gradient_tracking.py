"""Gradient tracking: every node steps along an estimate of all nodes' mean step."""

from typing import Any

import torch

from pcode.compression.base import Compressor
from pcode.optim.gossip import VectorGossip
from pcode.optim.overlapping import OverlappingOptimizer
from pcode.utils.layout import Layout


class GradientTracking(OverlappingOptimizer):
    """y = sum_j w_ij y_j + u - u_last ; x = sum_j w_ij x_j + y, where u = -lr d is the local step.

    The mean of y is that of u, and as the nodes come to agree every y_i does: nodes whose gradients
    differ have the common optimum for their fixed point. The step u at x is known when x and the
    last y have come from the neighbours, which travel while its gradient is computed. u_last and y
    start at 0, and the first x is not mixed: nodes start equal, or are mixed a step later.

    Tracking steps with momentum is the same as momentum on tracked gradients, while the rate is
    constant, as both are sums with fixed weights: with y = -lr (m - c), where m is a node's own
    momentum, it is Momentum Tracking, whose c = sum_j w_ij (c_j - m_j) + m.

    Sources: Lu et al., "GNSD: a gradient-tracking based nonconvex stochastic algorithm", 2019, and
    Pu and Nedic, "Distributed stochastic gradient tracking methods", arXiv 1805.11454, eq. 5;
    Takezawa et al., "Momentum Tracking", arXiv 2209.15505, Algorithm 1. Differences: the rate is
    that of the step in which a gradient was taken; momentum, weight decay, Adam and several local
    steps belong to the local step, whose sum u is.
    """

    state_vectors = ("sent", "before", "u")
    time_varying = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # x and y, then what they are mixed to.
        self.sent = self.x.new_zeros(2 * self.x.numel())
        self._x, self._y = self.sent.chunk(2)
        self.before, self.u = torch.zeros_like(self.x), torch.zeros_like(self.x)
        self._gossip = VectorGossip(self.communicator, self.timer)

    @classmethod
    def message_bytes_of(cls, layout: Layout, compressor: Compressor, **flags: Any) -> int:
        return 8 * layout.num_entries

    def _start(self) -> None:
        self.before.copy_(self.x)
        self._x.copy_(self.x)

    def _step_and_send(self) -> None:
        self.take_local_step()
        with self.timer("mix"):
            u = torch.sub(self.x, self.before, out=self.before)
            self._y.add_(u).sub_(self.u)
            self.u.copy_(u)
            torch.add(self._x, self._y, out=self.x)
            self.before.copy_(self.x)
            self._x.copy_(self.x)
        self._gossip.send(self.sent, self.topology.at(self.num_exchanges), self.num_steps)

    def _receive_pending(self) -> None:
        self._gossip.receive()

    def cancel_pending(self) -> None:
        self._gossip.cancel_pending()

    def resynchronise(self) -> None:
        """Begin to track again, from this x, which the neighbours get."""
        self._y.zero_()
        self.u.zero_()
        self._x.copy_(self.x)
        self.before.copy_(self.x)
        self._gossip(self.sent, self.topology.at(self.num_exchanges), self.num_steps)
