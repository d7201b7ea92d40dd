"""BEER: gradient tracking with compressed messages."""

from typing import Any

import torch

from pcode.compression.base import Compressor
from pcode.optim.base import over_rate
from pcode.optim.compressed import (
    ConsensusStepsize,
    OverlappingCompressedOptimizer,
    make_copies_exact,
)
from pcode.utils.layout import Layout
from pcode.utils.seeding import derive_seed


class BEER(OverlappingCompressedOptimizer):
    """y += gamma z_y + d - d_last ; x += gamma z_x - lr y, where -lr d is the local step.

    It is gradient tracking (`GradientTracking`) in which neighbours know x and y by copies, which
    compressed messages bring nearer as CHOCO's: hat += q, q = Q(x - hat), and z = sum_j w_ij hat_j
    - hat_i, for each of the two. The mean of y is that of d, so that nodes whose gradients differ
    come to the common optimum although messages are compressed. All vectors start at 0. Two
    messages a step travel while the next gradient is computed; whatever the degree, there are
    seven vectors besides x.

    Source: Zhao et al., "BEER: fast O(1/T) rate for decentralized nonconvex optimization with
    communication compression", NeurIPS 2022, arXiv 2201.13320, Algorithm 1 (H, G, V are hat_x,
    hat_y, y). Differences: two gradients that are subtracted are of batches of their own, where
    the paper takes both on the new one; momentum, weight decay, Adam and several local steps belong
    to the local step, whose sum is -lr d, or d is 0 where the rate is.

    Args:
        consensus_stepsize: gamma, in (0, 1], for both.
    """

    state_vectors = ("before", "d", "y", "hat_x", "z_x", "hat_y", "z_y")
    before: torch.Tensor
    d: torch.Tensor
    y: torch.Tensor
    hat_x: torch.Tensor
    z_x: torch.Tensor
    hat_y: torch.Tensor
    z_y: torch.Tensor

    def __init__(self, *args: Any, consensus_stepsize: ConsensusStepsize, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gamma = consensus_stepsize
        for name in self.state_vectors:
            setattr(self, name, torch.zeros_like(self.x))
        # What compressors draw for y is not what they draw for x.
        self._gossip_of_y = self._gossip_of(self.compressor, seed=derive_seed(self.seed, "tracked"))

    @classmethod
    def message_bytes_of(cls, layout: Layout, compressor: Compressor, **flags: Any) -> int:
        return 2 * compressor.message_bytes(layout)

    def _start(self) -> None:
        self.before.copy_(self.x)

    def _tracked_share(self, group: dict[str, Any]) -> float:
        """Return by what the direction of a param_group is multiplied before all else."""
        return 1.0

    def _step_and_send(self) -> None:
        self.take_local_step()
        with self.timer("mix"):
            for group, part in self.blocks():
                x, before, last, y = (v[part] for v in (self.x, self.before, self.d, self.y))
                # Not the step itself: y sums the rounding of messages, and as rates fall steps
                # would vanish beside it.
                d = over_rate(torch.sub(before, x, out=x), group)
                d.mul_(self._tracked_share(group))
                y.add_(self.z_y[part], alpha=self.gamma).add_(d).sub_(last)
                last.copy_(d)
                before.add_(y, alpha=-group["lr"]).add_(self.z_x[part], alpha=self.gamma)
                x.copy_(before)
        self._gossip.send(self.x, self.hat_x, self.num_steps)
        self._gossip_of_y.send(self.y, self.hat_y, self.num_steps)

    def _receive_pending(self) -> None:
        for gossip, hat, z in (
            (self._gossip, self.hat_x, self.z_x),
            (self._gossip_of_y, self.hat_y, self.z_y),
        ):
            gossip.receive([(hat, gossip.own, 1.0), (z, gossip.mixed, 1.0)])

    def cancel_pending(self) -> None:
        super().cancel_pending()
        self._gossip_of_y.cancel_pending()

    def resynchronise(self) -> None:
        """Begin to track again, with exact copies of the models."""
        for vector in (self.d, self.y, self.hat_y, self.z_y):
            vector.zero_()
        self.before.copy_(self.x)
        make_copies_exact(self, self.hat_x, self.z_x)
