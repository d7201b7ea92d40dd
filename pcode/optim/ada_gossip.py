"""AdaGossip: CHOCO-SGD with a consensus step size for each entry."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from pcode.compression.base import Compressor
from pcode.optim.parallel_choco import ParallelChoco
from pcode.utils.options import Option

# Keeps the step of an entry on which all agree finite.
EPSILON = 1e-8
# The best of .001 to 1 on digits, with sign and with top 1 % (docs/algorithms.md).
STEPSIZE = 0.001


class AdaGossip(ParallelChoco):
    """v = b v + (1 - b) z z ; x += min(1, gamma / (sqrt(v / (1 - b^t)) + 1e-8)) z, entry by entry.

    Otherwise CHOCO-SGD: z = sum_j w_ij hat_j - hat, and t = 1, 2, ... counts the rounds that have
    been received. gamma is as large as a change of x, and so depends on the model: an entry on
    which the copies differ by more moves by about gamma, one on which they differ by less moves
    all of the way. v, which starts at 0, is one more vector. The step is not fused.

    Source: Aketi, Hashemi and Roy, "AdaGossip: adaptive consensus step-size for decentralized deep
    learning with communication compression", arXiv 2404.05919. Difference: as ParallelChoco, x is
    mixed with the copies of the round before.

    Args:
        gossip_beta: b.
    """

    state_vectors = ("hat", "z", "v")
    reads_gradients_in_place = False

    def __init__(
        self,
        *args: Any,
        gossip_beta: Annotated[
            float, Option("ada_gossip: decay of what the copies differ by", minimum=0, below=1)
        ] = 0.999,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.gossip_beta = gossip_beta
        self.v = torch.zeros_like(self.x)

    @classmethod
    def default_consensus_stepsize(cls, compressor: Compressor) -> float:
        """Return the same whatever the compressor, unless that leaves nothing out."""
        choco = super().default_consensus_stepsize(compressor)
        return choco if choco == 1 else STEPSIZE

    def _recursion(self) -> None:
        self._receive_pending()  # hat += q ; z += sum_j w_ij q_j - q
        self.take_local_step()
        if self.num_exchanges > 0:
            with self.timer("mix"):
                self.v.mul_(self.gossip_beta)
                self.v.addcmul_(self.z, self.z, value=1 - self.gossip_beta)
                unbiased = self.v / (1 - self.gossip_beta**self.num_exchanges)
                stepsizes = unbiased.sqrt_().add_(EPSILON).reciprocal_().mul_(self.gamma)
                self.x.addcmul_(stepsizes.clamp_(max=1), self.z)
        self._gossip.send(self.x, self.hat, self.num_steps)  # q = Q(x - hat)
        if not self.overlap:
            self.finish()
