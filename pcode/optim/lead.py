"""LEAD: exact diffusion with compressed messages."""

from typing import Annotated, Any

import torch

from pcode.compression.base import Compressor
from pcode.optim.compressed import CompressedOptimizer, ConsensusStepsize, make_copies_exact
from pcode.topology.base import Topology
from pcode.utils.layout import Layout
from pcode.utils.options import Option


class LEAD(CompressedOptimizer):
    """y = x - lr (d + e) ; q = Q(y - h) ; w = z + zq ; x = y + gamma/2 w ; e -= gamma/(2 lr) w ;
    h += a q ; z += a zq, where zq = sum_j w_ij q_j - q_i ; z = sum_j w_ij h_j - h_i.

    e, whose sum over the nodes stays 0, comes to the part of a node's gradient that is not the
    mean's, with the opposite sign, and the copies h to x: nodes whose gradients differ come to the
    common optimum, although messages are compressed. e, h and z start at 0. The next gradient is
    taken at an x that holds this round's messages, so that the exchange cannot be hidden behind it.

    z, whose sum over the nodes is 0, is float64: what rounding leaves of that sum e would add up in
    every step, divided by the rate.

    Source: Liu et al., "Linear convergent decentralized optimization with compression", ICLR 2021,
    arXiv 2007.00232, Algorithm 1: e is D, z is H_w - H. Differences: momentum, Adam and several
    local steps belong to the local step; where the rate is 0, e stays as it is.

    Args:
        consensus_stepsize: gamma, in (0, 1].
        copy_share: a, how far the copies follow.
    """

    state_vectors = ("e", "h", "z")

    def __init__(
        self,
        *args: Any,
        consensus_stepsize: ConsensusStepsize,
        copy_share: Annotated[
            float, Option("lead: a, how far copies follow a message", above=0, maximum=1)
        ] = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.gamma, self.a = consensus_stepsize, copy_share
        self.e, self.h = torch.zeros_like(self.x), torch.zeros_like(self.x)
        self.z = torch.zeros_like(self.x, dtype=torch.float64)
        self._mixed = torch.empty_like(self.z)

    @classmethod
    def warnings(
        cls, topology: Topology, compressor: Compressor, layout: Layout, **flags: Any
    ) -> list[str]:
        if compressor.contraction(layout) == 1 or not getattr(compressor, "is_biased", True):
            return []
        return [
            "its theory asks for unbiased compression (arXiv 2007.00232, Assumption 2): --comm_op "
            "quantize_qsgd --is_biased False"
        ]

    def _recursion(self) -> None:
        gossip, mixed = self._gossip, self._mixed
        self.take_local_step()
        self.apply(self.e)
        gossip.send(self.x, self.h, self.num_steps)
        mixed.copy_(self.z)
        gossip.receive([(self.h, gossip.own, self.a), (mixed, gossip.mixed, 1.0)])
        with self.timer("mix"):
            self.z.lerp_(mixed, self.a)
            self.x.add_(mixed, alpha=self.gamma / 2)
            self.divide_by_rate(mixed)
            self.e.add_(mixed, alpha=-self.gamma / 2)

    def resynchronise(self) -> None:
        """Begin again with exact copies, and without corrections."""
        self.e.zero_()
        make_copies_exact(self, self.h, self.z)
