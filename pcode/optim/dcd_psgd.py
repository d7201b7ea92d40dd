"""DCD-PSGD: neighbours send the compressed difference of their models."""

import math
from typing import Any

import torch

from pcode.compression.base import Compressor
from pcode.optim.compressed import (
    OverlappingCompressedOptimizer,
    make_copies_exact,
    require_equal_start,
    warn_of_bias,
)
from pcode.topology.base import Topology
from pcode.utils.layout import Layout


class DCDPSGD(OverlappingCompressedOptimizer):
    """q = Q(sum_j w_ij hat_j - lr d - x_i) ; every hat_j += q_j ; x_i = hat_i.

    The copies hat_j start at x_0, the same on all nodes. Written with z = sum_j w_ij hat_j - hat_i:
    x -= lr d ; x += z ; q = Q(x - hat) ; hat += q ; x = hat, and z += sum_j w_ij q_j - q, which
    only the next step needs: the exchange runs while the next gradient is computed. Three vectors
    (x, hat, z) whatever the degree.

    Source: Tang et al., "Communication compression for decentralized training", NeurIPS 2018,
    arXiv 1803.06443, Algorithm 1 (difference compression). Difference: momentum and weight decay
    in the local step, as in the experiments of arXiv 1907.09356.
    """

    state_vectors = ("hat", "z")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.hat, self.z = self.x.clone(), torch.zeros_like(self.x)

    @classmethod
    def warnings(
        cls, topology: Topology, compressor: Compressor, layout: Layout, **flags: Any
    ) -> list[str]:
        alpha = math.sqrt(1 - compressor.contraction(layout))
        bound = topology.spectral_gap / (2 * topology.beta) if topology.num_nodes > 1 else math.inf
        warnings = warn_of_bias(compressor)
        if alpha < bound:
            return warnings
        return [
            *warnings,
            f"its theory asks for a relative compression error below gap / (2 beta) = {bound:.3g} "
            f"on this graph (arXiv 1803.06443, Theorem 1); here it is {alpha:.3g}. In arXiv "
            "1907.09356, table 1, it held with sign and top-k, collapsed with qsgd of 4 bits and "
            "diverged with 2 bits and with random-k of 10 % and 1 %",
        ]

    def _start(self) -> None:
        require_equal_start(self)
        self.hat.copy_(self.x)

    def _step_and_send(self) -> None:
        self.take_local_step()
        with self.timer("mix"):
            self.x.add_(self.z)
        self._gossip.send(self.x, self.hat, self.num_steps)
        self._gossip.add_own(self.hat)
        with self.timer("mix"):
            self.x.copy_(self.hat)

    def _receive_pending(self) -> None:
        self._gossip.receive([(self.z, self._gossip.mixed, 1.0)])

    def resynchronise(self) -> None:
        make_copies_exact(self, self.hat, self.z)
