"""CHOCO-SGD with the exchange hidden behind the next gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from pcode.communication.base import Communicator
from pcode.compression.base import Compressor
from pcode.optim.base import Law
from pcode.optim.gossip import Gossip
from pcode.topology.base import Topology


class ParallelChoco(Law):
    """x -= lr d ; x += gamma z ; q = Q(x - hat) ; exchange q ; hat += q ; z += sum_j w_ij q_j - q.

    hat is the public copy of x that the neighbours also know, z = sum_j w_ij hat_j - hat how far
    it is from the neighbours' mean; both start at 0 and are those of the previous rounds when x
    is mixed. The next gradient is taken at the mixed x, so the exchange of q runs while it is
    computed. Three vectors (x, hat, z) are enough whatever the degree.

    The usual form keeps s = sum_j w_ij hat_j and mixes with s - hat. That is the same z, but s
    and hat are as large as the model and their float32 rounding adds up from step to step, while
    z is as small as the nodes' disagreement; and mixing reads one vector instead of two.

    Source: Koloskova et al., "Decentralized deep learning with arbitrary communication
    compression", ICLR 2020, arXiv 1907.09356: CHOCO-SGD, with the momentum of the local step kept
    by each node. Difference from the algorithm with gossip after the exchange: x is mixed with
    the copies that were complete one round earlier, which is what lets the two overlap.

    Args:
        compressor: Q.
        consensus_stepsize: gamma, in (0, 1].
        overlap: False waits for the exchange within the step; the same numbers come out.
        seed: the run's seed, for compressors that draw.
    """

    compresses = True
    flags = ("consensus_stepsize", "overlap")

    def __init__(
        self,
        params: Iterable[Any],
        communicator: Communicator,
        topology: Topology,
        *,
        compressor: Compressor,
        consensus_stepsize: float,
        overlap: bool = True,
        seed: int = 0,
        **local: Any,
    ) -> None:
        super().__init__(params, communicator, topology, **local)
        self.gamma, self.overlap = consensus_stepsize, overlap
        self.hat, self.z = torch.zeros_like(self.x), torch.zeros_like(self.x)
        self._gossip = Gossip(
            communicator,
            topology,
            compressor,
            self.layout,
            device=self.x.device,
            seed=seed,
            timer=self.timer,
        )

    def _recursion(self) -> None:
        self.finish()
        self.local_step()
        with self.timer("mix"):
            self.x.add_(self.z, alpha=self.gamma)
        self._gossip.send(self.x, self.hat, self.num_steps)
        if not self.overlap:
            self.finish()

    @torch.no_grad()
    def finish(self) -> None:
        """hat += q ; z += sum_j w_ij q_j - q, for the round under way, if there is one."""
        self._gossip.receive([(self.hat, "own"), (self.z, "mixed")])

    @property
    def message_bytes(self) -> int:
        return self._gossip.message_bytes

    def _vectors(self) -> dict[str, torch.Tensor]:
        return {**super()._vectors(), "hat": self.hat, "z": self.z}
