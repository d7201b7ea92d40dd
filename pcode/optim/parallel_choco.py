"""CHOCO-SGD with the exchange hidden behind the next gradient."""

from typing import Any, ClassVar

import torch

from pcode.optim.compressed import (
    ConsensusStepsize,
    OverlappingCompressedOptimizer,
    make_copies_exact,
)


class ParallelChoco(OverlappingCompressedOptimizer):
    """hat += q ; z += sum_j w_ij q_j - q ; x -= lr d ; x += gamma z ; q = Q(x - hat) ; send q.

    A step begins with the messages of the round before, q and all q_j, and ends when a new q is on
    its way, so that the exchange runs while the next gradient is computed, at the mixed x. hat is
    the public copy of x that the neighbours also know, and z = sum_j w_ij hat_j - hat says how far
    it is from the neighbours' mean; both start at 0. Three vectors (x, hat, z) are enough whatever
    the degree.

    The usual form keeps s = sum_j w_ij hat_j and mixes with s - hat. That is the same z, but s
    and hat are as large as the model and their float32 rounding adds up from step to step, while
    z is as small as the nodes' disagreement; and mixing reads one vector instead of two.

    Source: Koloskova et al., "Decentralized deep learning with arbitrary communication
    compression", ICLR 2020, arXiv 1907.09356: CHOCO-SGD, with the momentum of the local step that
    of each node. Difference from the algorithm with gossip after the exchange: x is mixed with
    the copies that were complete one round earlier, which is what lets the two overlap.

    Args:
        consensus_stepsize: gamma, in (0, 1].
    """

    state_vectors: ClassVar[tuple[str, ...]] = ("hat", "z")
    reads_gradients_in_place = True

    def __init__(self, *args: Any, consensus_stepsize: ConsensusStepsize, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gamma = consensus_stepsize
        self.hat, self.z = torch.zeros_like(self.x), torch.zeros_like(self.x)
        self._targets = ((self.hat, self._gossip.own, 1.0), (self.z, self._gossip.mixed, 1.0))

    def _recursion(self) -> None:
        fused = self.local.fused_with(self.compressor, self.z, self.gamma)
        if fused is not None:  # sign and SGD on a CPU: all that is below, in one pass over memory
            self._gossip.fused_step(fused, self._targets, self.hat, self.num_steps)
        else:
            self._receive_pending()  # hat += q ; z += sum_j w_ij q_j - q
            with self.timer("local_update"):
                self.local.step_and_mix(self.z, self.gamma)  # x -= lr d ; x += gamma z
            self._gossip.send(self.x, self.hat, self.num_steps)  # q = Q(x - hat)
        if not self.overlap:
            self.finish()

    def _receive_pending(self) -> None:
        self._gossip.receive(self._targets)

    def resynchronise(self) -> None:
        make_copies_exact(self, self.hat, self.z)
