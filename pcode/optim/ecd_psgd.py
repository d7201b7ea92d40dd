"""ECD-PSGD: neighbours send a compressed extrapolation of their models."""

import math
from typing import Any

from pcode.compression.base import Compressor
from pcode.optim.compressed import OverlappingCompressedOptimizer, require_equal_start, warn_of_bias
from pcode.optim.gossip import VectorGossip
from pcode.topology.base import Topology
from pcode.utils.layout import Layout

# 16 bits, the one compression that the paper's table shows to hold, has an error of some 1e-3.
HARMLESS_ERROR = 1e-2


class ECDPSGD(OverlappingCompressedOptimizer):
    """x' = s - lr d ; v = (1 - t/2) x + (t/2) x' ; s <- (1 - 2/t) s + (2/t) sum_j w_ij Q(v_j).

    t = 1, 2, ... counts exchanges; s = sum_j w_ij hat_j, where each copy follows
    hat_j <- (1 - 2/t) hat_j + (2/t) Q(v_j) from hat_j = x_0, the same on all nodes; then x = x'.
    Only the next step needs s: the exchange runs while the next gradient is computed. Three
    vectors (x, s, and the x of the last exchange, where v is made as well) whatever the degree.

    Source: Tang et al., "Communication compression for decentralized training", NeurIPS 2018,
    arXiv 1803.06443, Algorithm 2 (extrapolation compression). All coordinates of hat_j are scaled
    by 1 - 2/t, as published; the original research code scales those that a sparse Q selects.
    Difference from the paper: momentum and weight decay in the local step, as in arXiv 1907.09356.
    """

    state_vectors = ("s", "last_x")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.s, self.last_x = self.x.clone(), self.x.clone()
        self._share = 1.0  # 2 / t of the round under way

    @classmethod
    def warnings(
        cls, topology: Topology, compressor: Compressor, layout: Layout, **flags: Any
    ) -> list[str]:
        error = math.sqrt(1 - compressor.contraction(layout))
        warnings = warn_of_bias(compressor)
        if error < HARMLESS_ERROR or topology.num_nodes == 1:
            return warnings
        return [
            *warnings,
            "its theory asks for unbiased compression whose error is bounded, while what it "
            "extrapolates grows with the number of steps (arXiv 1803.06443, Assumption 2); here "
            f"the relative error is {error:.3g}. In arXiv 1907.09356, table 1, it held with qsgd "
            "of 16 bits only: 59.1 % with 8 bits, below 20 % or divergence with all others",
        ]

    def _start(self) -> None:
        require_equal_start(self)
        self.s.copy_(self.x)
        self.last_x.copy_(self.x)

    def _step_and_send(self) -> None:
        half_t = (self.num_exchanges + 1) / 2
        self.take_local_step()
        with self.timer("mix"):
            self.x.sub_(self.last_x).add_(self.s)
            v = self.last_x.mul_(1 - half_t).add_(self.x, alpha=half_t)
        self._gossip.send(v, None, self.num_steps)
        with self.timer("mix"):
            self.last_x.copy_(self.x)
            self.s.mul_(1 - 1 / half_t)
        self._share = 1 / half_t

    def _receive_pending(self) -> None:
        self._gossip.receive([(self.s, self._gossip.mean, self._share)])

    def resynchronise(self) -> None:
        """hat_j = x_j everywhere, as before the first exchange: t = 1, 2, ... counts from here."""
        self.num_exchanges = 0
        self.last_x.copy_(self.x)
        self.s.copy_(self.x)
        VectorGossip(self.communicator, self.timer)(self.s, self.topology, self.num_steps)
