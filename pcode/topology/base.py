"""A graph of nodes and the validated matrix with which they mix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pcode.errors import UserError

Matrix = npt.NDArray[np.float64]

# Far above what rounding leaves in a row of float64 weights, far below what could move the mean
# of the models within a training run.
TOLERANCE = 1e-12


@dataclass(frozen=True, eq=False)
class Topology:
    """A gossip matrix W (arXiv 1907.09356, Definition 1) and the graph that it implies.

    Nodes i and j are neighbours where w_ij > 0. Ranks count from 0.

    Args:
        name: what messages call the graph: a topology's name or the path of a file.
        matrix: W, n x n; kept as a read-only float64 copy.

    Raises:
        UserError: W is not square, finite, nonnegative, symmetric and doubly stochastic, the
            graph is not connected, or the spectral gap is 0 (all up to TOLERANCE).
    """

    name: str
    matrix: Matrix

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)
        self._validate()

    def _validate(self) -> None:
        W = self.matrix
        if W.ndim != 2 or W.shape[0] != W.shape[1] or W.shape[0] == 0:
            shape = " x ".join(map(str, W.shape))
            raise UserError(f"graph {self.name!r}: a mixing matrix is n x n, not {shape}")
        if (bad := np.argwhere(~np.isfinite(W) | (W < 0))).size:
            i, j = bad[0]
            self._refuse(f"entry ({i}, {j}) is {W[i, j]:g}, not a finite number >= 0")
        if (bad := np.argwhere(np.abs(W - W.T) > TOLERANCE)).size:
            i, j = bad[0]
            self._refuse(
                f"not symmetric: entry ({i}, {j}) is {W[i, j]:.12g}, ({j}, {i}) is {W[j, i]:.12g}"
            )
        sums = W.sum(axis=1)
        if (bad := np.argwhere(np.abs(sums - 1) > TOLERANCE)).size:
            i = bad[0][0]
            self._refuse(f"row {i} sums to {sums[i]:.15g}, not to 1")
        if missing := sorted(set(range(self.num_nodes)) - self._reachable_from(0)):
            self._refuse(f"not connected: no path leads from node 0 to node {missing[0]}")
        if self.spectral_gap <= TOLERANCE:
            self._refuse("spectral gap 0: mixing never ends; give the nodes a self weight")

    def _refuse(self, reason: str) -> None:
        raise UserError(f"graph {self.name!r} with n = {self.num_nodes}: {reason}")

    def _reachable_from(self, start: int) -> set[int]:
        reached, frontier = {start}, [start]
        while frontier:
            new = set(self.neighbours(frontier.pop())) - reached
            reached |= new
            frontier.extend(new)
        return reached

    @property
    def num_nodes(self) -> int:
        """n."""
        return int(self.matrix.shape[0])

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Every edge once, as (i, j) with i < j, sorted."""
        return tuple((int(i), int(j)) for i, j in np.argwhere(np.triu(self.matrix, 1) > 0))

    def neighbours(self, rank: int) -> tuple[int, ...]:
        """The neighbours of a rank, sorted, without itself."""
        return tuple(int(j) for j in np.flatnonzero(self.matrix[rank]) if j != rank)

    def weights(self, rank: int) -> dict[int, float]:
        """w_ij of the rank's neighbours and, where it is not 0, of itself, sorted by rank j."""
        row = self.matrix[rank]
        return {int(j): float(row[j]) for j in np.flatnonzero(row)}

    def degree(self, rank: int) -> int:
        """The number of neighbours, without the rank itself."""
        return len(self.neighbours(rank))

    @cached_property
    def _eigenvalues(self) -> Matrix:
        """The eigenvalues of W in ascending order."""
        return np.asarray(np.linalg.eigvalsh(self.matrix), dtype=np.float64)

    @cached_property
    def spectral_gap(self) -> float:
        """rho = 1 - |lambda_2(W)|: the larger, the faster the nodes agree; 1 for one node."""
        if self.num_nodes == 1:
            return 1.0
        smallest, second = self._eigenvalues[0], self._eigenvalues[-2]
        return float(1 - max(abs(smallest), abs(second)))

    @property
    def beta(self) -> float:
        """||I - W||_2, from 0 to 2."""
        return float(1 - self._eigenvalues[0])

    def theoretical_gamma(self, delta: float) -> float:
        """The consensus step size for which CHOCO-SGD is proved to converge.

        Much smaller than what works best: a guard to show, not a default.

        Args:
            delta: the compressor's quality, E||Q(x) - x||^2 <= (1 - delta) ||x||^2, in (0, 1].

        Source: arXiv 1902.00340, Theorem 2.
        """
        rho, beta = self.spectral_gap, self.beta
        return (
            rho**2 * delta / (16 * rho + rho**2 + 4 * beta**2 + 2 * rho * beta**2 - 8 * rho * delta)
        )


def metropolis_weights(num_nodes: int, edges: Iterable[tuple[int, int]]) -> Matrix:
    """The matrix with w_ij = 1 / (1 + max(deg_i, deg_j)) on edges and the rest on the diagonal.

    Symmetric and doubly stochastic for every graph. The edges may come in any order and
    direction and more than once; none joins a node to itself.

    Source: Xiao and Boyd, "Fast linear iterations for distributed averaging", 2004, section 4.2.
    """
    pairs = sorted({(min(i, j), max(i, j)) for i, j in edges})
    degrees = [0] * num_nodes
    for i, j in pairs:
        degrees[i] += 1
        degrees[j] += 1
    matrix = np.zeros((num_nodes, num_nodes))
    for i, j in pairs:
        matrix[i, j] = matrix[j, i] = 1 / (1 + max(degrees[i], degrees[j]))
    np.fill_diagonal(matrix, 1 - matrix.sum(axis=1))
    return matrix
