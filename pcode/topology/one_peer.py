"""A round in which every node receives from at most one other."""

import numpy as np
import numpy.typing as npt

from pcode.topology.base import Matrix, Mixing


class OnePeer(Mixing):
    """W = (I + P) / 2 with a permutation P: half for itself and half for its source.

    A node that is its own source retains its value. W is stored as one integer a node.

    Args:
        sources: rank -> the rank from which it receives; a permutation.

    Raises:
        ValueError: it is no permutation, so that W would not be doubly stochastic.
    """

    def __init__(self, sources: npt.NDArray[np.int64]) -> None:
        self._sources = np.asarray(sources, dtype=np.int64)
        if not np.array_equal(np.sort(self._sources), np.arange(self._sources.size)):
            raise ValueError(f"the sources {self._sources} are no permutation")
        self._targets = np.argsort(self._sources)

    def weights(self, rank: int) -> dict[int, float]:
        source = int(self._sources[rank])
        return {rank: 1.0} if source == rank else dict.fromkeys(sorted((rank, source)), 0.5)

    def senders(self, rank: int) -> tuple[int, ...]:
        return self._other(rank, self._sources)

    def receivers(self, rank: int) -> tuple[int, ...]:
        return self._other(rank, self._targets)

    def mix(self, values: Matrix) -> Matrix:
        return (values + values[self._sources]) / 2

    @staticmethod
    def _other(rank: int, peers: npt.NDArray[np.int64]) -> tuple[int, ...]:
        return () if peers[rank] == rank else (int(peers[rank]),)
