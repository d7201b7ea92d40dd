"""One message a round, over distances 1, 2, 4, ... in turn."""

from functools import cached_property

import numpy as np

from pcode.topology.base import OnePeer, TimeVarying


class OnePeerExponential(TimeVarying):
    """Round t: node i sends to i + 2^(t mod T) modulo n, T = ceil(log2 n); 1/2 and 1/2.

    W_t = (I + P_t) / 2 is doubly stochastic but, from three nodes on, not symmetric. Where n is
    a power of 2, T rounds average exactly.

    The spectral gap is that of the period, a round: 1 - ||W_T ... W_1 - 11'/n||_2^(1/T); it is 1
    where n is a power of 2.

    Source: Ying et al., "Exponential graph is provably efficient for decentralized deep
    training", 2021, arXiv 2110.13363, section 4.
    """

    def __init__(self, num_nodes: int) -> None:
        super().__init__("one_peer_exponential", num_nodes)
        self.period = max(1, (num_nodes - 1).bit_length())
        ranks = np.arange(num_nodes)
        self._rounds = [OnePeer((ranks - (1 << k)) % num_nodes) for k in range(self.period)]

    @cached_property
    def spectral_gap(self) -> float:
        first = np.zeros(self.num_nodes)
        first[0] = 1
        for mixing in self._rounds:
            first = mixing.mix(first)
        # The product is circulant: its singular values are those of its first column's transform.
        # Where it is 11'/n the entries are exact, and the difference is 0.
        left = np.abs(np.fft.fft(first - 1 / self.num_nodes)).max()
        return float(1 - left ** (1 / len(self._rounds)))

    def degree(self, rank: int) -> int:
        return min(1, self.num_nodes - 1)

    def at(self, step: int) -> OnePeer:
        return self._rounds[step % len(self._rounds)]
