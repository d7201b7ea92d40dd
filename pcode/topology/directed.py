"""Graphs of one-way links, whose weights leave sums as they are, but not means of neighbours."""

from __future__ import annotations

import numpy as np

from pcode.topology.base import TOLERANCE, Matrix, Mixing, TimeVarying
from pcode.utils.errors import UserError


class Directed(TimeVarying, Mixing):
    """A graph that is the same in every round, with a column-stochastic P.

    Node j sends p_ij of what it has to node i, so that columns sum to 1, and rows need not: for
    push-sum (`pcode.optim.sgp`) alone. The spectral gap is 1 - |lambda_2(P)|.

    Raises:
        UserError: P is not finite, nonnegative and column-stochastic, a node gives all away, or
            there is no path from each node to every other.
    """

    period = 1

    def __init__(self, name: str, matrix: Matrix) -> None:
        super().__init__(name, len(matrix))
        self.matrix = np.array(matrix, dtype=np.float64)
        self.matrix.setflags(write=False)
        if reason := self._mistake():
            raise UserError(f"graph {name!r} with n = {self.num_nodes}: {reason}")

    def _mistake(self) -> str | None:
        P = self.matrix
        if (bad := np.argwhere(~np.isfinite(P) | (P < 0))).size:
            i, j = bad[0]
            return f"entry ({i}, {j}) is {P[i, j]:g}, not a finite number >= 0"
        sums = P.sum(axis=0)
        if (bad := np.argwhere(np.abs(sums - 1) > TOLERANCE)).size:
            return f"column {bad[0, 0]} sums to {sums[bad[0, 0]]:.15g}, not to 1"
        if (bad := np.argwhere(np.diag(P) == 0)).size:
            return f"node {bad[0, 0]} has no weight for itself"
        for links, words in ((P, "from node 0 to node"), (P.T, "to node 0 from node")):
            reached, frontier = {0}, [0]
            while frontier:
                new = {int(i) for i in np.flatnonzero(links[:, frontier.pop()])} - reached
                reached |= new
                frontier.extend(new)
            if missing := set(range(self.num_nodes)) - reached:
                return f"no path leads {words} {min(missing)}"
        return None

    @property
    def spectral_gap(self) -> float:
        values = np.sort(np.abs(np.linalg.eigvals(self.matrix)))
        return float(1 - values[-2]) if self.num_nodes > 1 else 1.0

    def degree(self, rank: int) -> int:
        return len(self.senders(rank))

    def at(self, step: int) -> Directed:
        return self

    def weights(self, rank: int) -> dict[int, float]:
        row = self.matrix[rank]
        return {int(j): float(row[j]) for j in np.flatnonzero(row)}

    def senders(self, rank: int) -> tuple[int, ...]:
        return tuple(int(j) for j in np.flatnonzero(self.matrix[rank]) if j != rank)

    def receivers(self, rank: int) -> tuple[int, ...]:
        return tuple(int(i) for i in np.flatnonzero(self.matrix[:, rank]) if i != rank)


def directed_exponential(num_nodes: int) -> Directed:
    """Node i sends to i + 1, i + 2, i + 4, ... modulo n, up to below n: equal weights.

    Source: Assran et al., "Stochastic gradient push", ICML 2019, arXiv 1811.10792, section 3;
    Ying et al., arXiv 2110.13363.
    """
    distances = [0, *(1 << k for k in range((num_nodes - 1).bit_length()))]
    matrix = np.zeros((num_nodes, num_nodes))
    for distance in distances:
        for i in range(num_nodes):
            matrix[(i + distance) % num_nodes, i] += 1 / len(distances)
    return Directed("directed_exponential", matrix)
