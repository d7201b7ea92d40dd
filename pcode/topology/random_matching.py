"""Random pairs, drawn anew for every round."""

import math
from abc import abstractmethod
from functools import lru_cache

import numpy as np
import torch

from pcode.topology.base import OnePeer, TimeVarying
from pcode.utils.seeding import torch_generator

# Nodes that are simulated in one process ask for the same rounds, a few rounds apart.
CACHED_ROUNDS = 64


class DrawnPeers(TimeVarying):
    """One peer a round, drawn anew for every round: seed and step decide."""

    period = None

    def __init__(self, name: str, num_nodes: int, seed: int) -> None:
        super().__init__(name, num_nodes)
        self._seed = seed
        self._round = lru_cache(maxsize=CACHED_ROUNDS)(self._draw)

    @abstractmethod
    def _draw(self, step: int) -> OnePeer: ...

    def degree(self, rank: int) -> int:
        return min(1, self.num_nodes - 1)

    def at(self, step: int) -> OnePeer:
        return self._round(step)


class RandomMatching(DrawnPeers):
    """Every round pairs the nodes at random: 1/2 and 1/2; of an odd n one node retains its value.

    Every perfect (for odd n, near-perfect) matching is equally likely.

    The spectral gap is the expected one, with E||W x - mean||^2 <= (1 - gap)^2 ||x - mean||^2.
    As W_t is a projection, (1 - gap)^2 is the second largest eigenvalue of E[W_t]: 1/2 for odd n
    and (n - 2) / (2 (n - 1)) for even n.

    Source: Boyd et al., "Randomized gossip algorithms", 2006; the gap is that of Koloskova et
    al., 2020, arXiv 2003.10422, Assumption 4, with p = 1 - (1 - gap)^2.
    """

    def __init__(self, num_nodes: int, seed: int) -> None:
        super().__init__("random_matching", num_nodes, seed)

    def _draw(self, step: int) -> OnePeer:
        generator = torch_generator(self._seed, "matching", step)
        order = torch.randperm(self.num_nodes, generator=generator).numpy()
        num_pairs = self.num_nodes // 2
        first, second = order[:num_pairs], order[num_pairs : 2 * num_pairs]
        sources = np.arange(self.num_nodes)
        sources[first], sources[second] = second, first
        return OnePeer(sources)

    @property
    def spectral_gap(self) -> float:
        n = self.num_nodes
        if n == 1:
            return 1.0
        return 1 - math.sqrt(0.5 if n % 2 else (n - 2) / (2 * (n - 1)))
