"""DeepSqueeze: neighbours send their compressed models, with error feedback."""

from typing import Any

import torch

from pcode.compression.base import Compressor
from pcode.optim.compressed import CompressedOptimizer, ConsensusStepsize

# Of sign, the only compressor with a gamma that was tuned for both: .01 here, .45 for CHOCO.
STEPSIZE_RATIO = 0.01 / 0.45


class DeepSqueeze(CompressedOptimizer):
    """x -= lr d ; e += x ; c = Q(e) ; e -= c ; x += gamma (sum_j w_ij c_j - c_i).

    e, what compression has left out so far, starts at 0. The next gradient is taken at an x that
    holds this round's messages, so that the exchange cannot be hidden behind it.

    Source: Tang et al., "DeepSqueeze: decentralization meets error-compensated compression", 2019,
    arXiv 1907.07346, Algorithm 1. Difference: momentum and weight decay in the local step.

    Args:
        consensus_stepsize: gamma, in (0, 1] (eta in the paper).
    """

    state_vectors = ("e",)
    # What is sent is x itself: nodes that agree are driven apart, by gamma times what e changes.
    converges = False

    def __init__(self, *args: Any, consensus_stepsize: ConsensusStepsize, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gamma = consensus_stepsize
        self.e = torch.zeros_like(self.x)

    @classmethod
    def default_consensus_stepsize(cls, compressor: Compressor) -> float:
        """CHOCO's by STEPSIZE_RATIO, a guess except for sign; 1 where CHOCO's is, as messages that
        leave nothing out drive nothing apart.
        """
        choco = super().default_consensus_stepsize(compressor)
        return choco if choco == 1 else STEPSIZE_RATIO * choco

    def _recursion(self) -> None:
        self.take_local_step()
        with self.timer("mix"):
            self.e.add_(self.x)
        self._gossip.send(self.e, None, self.num_steps)
        self._gossip.receive(
            [(self.e, self._gossip.own, -1.0), (self.x, self._gossip.mixed, self.gamma)]
        )
