"""Graphs of nodes, the validated weights with which they mix, and what graphs are made with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from pcode.utils.errors import UserError
from pcode.utils.seeding import derive_seed

Matrix = npt.NDArray[np.float64]

# Far above what rounding leaves in a row of float64 weights, far below what could move the mean
# of the models within a training run.
TOLERANCE = 1e-12
# Graphs drawn until one is connected.
MAX_ATTEMPTS = 1000


class Mixing(ABC):
    """One round of mixing, x_i <- sum_j w_ij x_j, with a doubly stochastic n x n matrix W.

    Ranks count from 0. W need not be symmetric: node i receives from node j where w_ij > 0.
    """

    @abstractmethod
    def weights(self, rank: int) -> dict[int, float]:
        """Return w_ij of the senders and, where it is not 0, of the rank itself, sorted by j."""

    @abstractmethod
    def senders(self, rank: int) -> tuple[int, ...]:
        """Return the others from which the rank receives, sorted."""

    @abstractmethod
    def receivers(self, rank: int) -> tuple[int, ...]:
        """Return the others to which the rank sends, sorted."""

    def mix(self, values: Matrix) -> Matrix:
        """Return W @ values, of n numbers or of n rows, one for each node."""
        rows = map(self.weights, range(len(values)))
        return np.stack([sum(weight * values[j] for j, weight in row.items()) for row in rows])


class Graph(ABC):
    """Who mixes with whom in each round: always the same (Topology) or not (TimeVarying)."""

    name: str  # what messages call it: a topology's name or the path of a file
    num_nodes: int
    period: int | None  # rounds after which it repeats itself, or None where it never does
    notices: tuple[str, ...] = ()  # what the user should know of its file, a line each

    @property
    @abstractmethod
    def spectral_gap(self) -> float:
        """1 - the factor by which a round shrinks the nodes' disagreement: 1 is perfect."""

    @abstractmethod
    def degree(self, rank: int) -> int:
        """Return from how many others the rank receives in a round, at most."""

    @abstractmethod
    def at(self, step: int) -> Mixing:
        """Return the mixing of round `step`, from 0."""


class TimeVarying(Graph):
    """A graph that changes from round to round."""

    def __init__(self, name: str, num_nodes: int) -> None:
        self.name, self.num_nodes = name, num_nodes


class OnePeer(Mixing):
    """W = (1 - share) I + share P with a permutation P: a share for a node's source.

    A node that is its own source retains its value. W is stored as one integer a node: `sources`,
    rank -> the rank from which it receives. What is no permutation is a ValueError.
    """

    def __init__(self, sources: npt.NDArray[np.int64], share: float = 0.5) -> None:
        self._sources, self._share = np.asarray(sources, dtype=np.int64), share
        if not np.array_equal(np.sort(self._sources), np.arange(self._sources.size)):
            raise ValueError(f"the sources {self._sources} are no permutation")
        self._targets = np.argsort(self._sources)

    def weights(self, rank: int) -> dict[int, float]:
        source = int(self._sources[rank])
        weights = {rank: 1 - self._share, source: self._share}
        return {rank: 1.0} if source == rank else dict(sorted(weights.items()))

    def senders(self, rank: int) -> tuple[int, ...]:
        return self._other(rank, self._sources)

    def receivers(self, rank: int) -> tuple[int, ...]:
        return self._other(rank, self._targets)

    def mix(self, values: Matrix) -> Matrix:
        return (1 - self._share) * values + self._share * values[self._sources]

    @staticmethod
    def _other(rank: int, peers: npt.NDArray[np.int64]) -> tuple[int, ...]:
        return () if peers[rank] == rank else (int(peers[rank]),)


class EdgeWeights(Mixing):
    """A symmetric W that is given by the weights of its edges; the rest is a node's own.

    Args:
        edges: w_ij, once for each edge.
    """

    def __init__(self, num_nodes: int, edges: Mapping[tuple[int, int], float]) -> None:
        rows: list[dict[int, float]] = [{} for _ in range(num_nodes)]
        for (i, j), weight in edges.items():
            rows[i][j] = rows[j][i] = weight
        self._rows = []
        for rank, row in enumerate(rows):
            rest = 1 - sum(row.values())
            own = {rank: rest} if rest > TOLERANCE else {}
            self._rows.append(dict(sorted({**row, **own}.items())))

    def weights(self, rank: int) -> dict[int, float]:
        return self._rows[rank]

    def senders(self, rank: int) -> tuple[int, ...]:
        return tuple(peer for peer in self._rows[rank] if peer != rank)

    receivers = senders


@dataclass(frozen=True, eq=False)
class Topology(Graph, Mixing):
    """A gossip matrix W (arXiv 1907.09356, Definition 1) and the graph that it implies.

    Nodes i and j are neighbours where w_ij > 0. Every round mixes with the same W, of which it
    holds a read-only float64 copy.

    Raises:
        UserError: W is not square, finite, nonnegative, symmetric and doubly stochastic, the
            graph is not connected, or the spectral gap is 0 (all up to TOLERANCE).
    """

    name: str
    matrix: Matrix
    num_nodes: int = field(init=False)
    notices: tuple[str, ...] = ()
    period = 1

    def __post_init__(self) -> None:
        W = np.array(self.matrix, dtype=np.float64)
        W.setflags(write=False)
        if W.ndim != 2 or W.shape[0] != W.shape[1] or W.shape[0] == 0:
            shape = " x ".join(map(str, W.shape))
            raise UserError(f"graph {self.name!r}: a mixing matrix is n x n, not {shape}")
        object.__setattr__(self, "matrix", W)
        object.__setattr__(self, "num_nodes", len(W))
        if reason := self._mistake():
            raise UserError(f"graph {self.name!r} with n = {self.num_nodes}: {reason}")

    def _mistake(self) -> str | None:
        W = self.matrix
        if (bad := np.argwhere(~np.isfinite(W) | (W < 0))).size:
            i, j = bad[0]
            return f"entry ({i}, {j}) is {W[i, j]:g}, not a finite number >= 0"
        if (bad := np.argwhere(np.abs(W - W.T) > TOLERANCE)).size:
            i, j = bad[0]
            entries = f"entry ({i}, {j}) is {W[i, j]:.12g}, ({j}, {i}) is {W[j, i]:.12g}"
            return f"not symmetric: {entries}"
        sums = W.sum(axis=1)
        if (bad := np.argwhere(np.abs(sums - 1) > TOLERANCE)).size:
            return f"row {bad[0, 0]} sums to {sums[bad[0, 0]]:.15g}, not to 1"
        reached, frontier = {0}, [0]
        while frontier:
            new = set(self.neighbours(frontier.pop())) - reached
            reached |= new
            frontier.extend(new)
        if len(reached) < self.num_nodes:
            missing = min(set(range(self.num_nodes)) - reached)
            return f"not connected: no path leads from node 0 to node {missing}"
        if self.spectral_gap <= TOLERANCE:
            return "spectral gap 0: mixing never ends; give the nodes a self weight"
        return None

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Every edge once, as (i, j) with i < j, sorted."""
        return tuple((int(i), int(j)) for i, j in np.argwhere(np.triu(self.matrix, 1) > 0))

    def neighbours(self, rank: int) -> tuple[int, ...]:
        """Return the neighbours of a rank, sorted, without itself."""
        return tuple(int(j) for j in np.flatnonzero(self.matrix[rank]) if j != rank)

    senders = receivers = neighbours

    def at(self, step: int) -> Topology:
        return self

    def mix(self, values: Matrix) -> Matrix:
        return self.matrix @ values

    def weights(self, rank: int) -> dict[int, float]:
        row = self.matrix[rank]
        return {int(j): float(row[j]) for j in np.flatnonzero(row)}

    def degree(self, rank: int) -> int:
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
        """Return the consensus step size for which CHOCO-SGD is proved to converge.

        Much smaller than what works best: a guard to show, not a default. In (0, 1] delta is the
        compressor's quality, E||Q(x) - x||^2 <= (1 - delta) ||x||^2.

        Source: arXiv 1902.00340, Theorem 2.
        """
        rho, beta = self.spectral_gap, self.beta
        return (
            rho**2 * delta / (16 * rho + rho**2 + 4 * beta**2 + 2 * rho * beta**2 - 8 * rho * delta)
        )


def metropolis_weights(num_nodes: int, edges: Iterable[tuple[int, int]]) -> Matrix:
    """Set w_ij = 1 / (1 + max(deg_i, deg_j)) on edges and the rest on the diagonal.

    Symmetric and doubly stochastic for every graph. The edges may come in any order and direction
    and more than once; an edge from a node to itself changes nothing.

    Source: Xiao, Boyd, Lall, "A scheme for robust distributed sensor fusion based on average
    consensus", 2005: the local-degree weights of the graph with a loop at every node.
    """
    loops = ((i, i) for i in range(num_nodes))
    return local_degree_weights(num_nodes, [*edges, *loops])


def local_degree_weights(num_nodes: int, edges: Iterable[tuple[int, int]]) -> Matrix:
    """Return the matrix with w_ij = 1 / max(deg_i, deg_j) on edges and the rest on the diagonal.

    Symmetric and doubly stochastic for every graph. An edge from a node to itself, a loop, adds
    one to its degree. Where no neighbour's degree is larger than its own, a node without a loop
    has no self weight; a graph without any (an even cycle) may have the spectral gap 0.

    Source: Xiao and Boyd, "Fast linear iterations for distributed averaging", 2004, section 4.2.
    """
    adjacency = np.zeros((num_nodes, num_nodes), dtype=bool)
    for i, j in edges:
        adjacency[i, j] = adjacency[j, i] = True
    degrees = adjacency.sum(axis=1)
    np.fill_diagonal(adjacency, False)
    matrix = np.zeros((num_nodes, num_nodes))
    matrix[adjacency] = 1 / np.maximum.outer(degrees, degrees)[adjacency]
    rest = 1 - matrix.sum(axis=1)
    np.fill_diagonal(matrix, np.where(rest > TOLERANCE, rest, 0.0))
    return matrix


def connected_topology(
    name: str, num_nodes: int, seed: int, draw: Callable[[int], Any], hint: str
) -> Topology:
    """Return the first connected graph among draw(seed of attempt 0), draw(seed of 1), ...

    Args:
        name: the topology's.
        seed: the run's, from which all attempts' are derived.
        draw: a networkx graph of the nodes 0 to num_nodes - 1 from a seed.
        hint: what would do, for the UserError where none of MAX_ATTEMPTS graphs is connected.
    """
    import networkx  # noqa: PLC0415  # takes .2 s, which only graphs made with it are to cost

    for attempt in range(MAX_ATTEMPTS):
        graph = draw(derive_seed(seed, "topology", attempt))
        if networkx.is_connected(graph):
            return Topology(name, metropolis_weights(num_nodes, graph.edges()))
    raise UserError(
        f"graph {name!r} with n = {num_nodes}: none of {MAX_ATTEMPTS} drawn is connected; {hint}"
    )


def check_num_nodes(name: str, num_nodes: int, fits: Callable[[int], bool], rule: str) -> None:
    """Raise a UserError with the nearest numbers of nodes that will do where so many do not.

    `fits` says whether a number from 1 does, as some above every other one must; `rule` says in
    words what it must be ("a prime").
    """
    if fits(num_nodes):
        return
    below = next((n for n in range(num_nodes - 1, 0, -1) if fits(n)), None)
    above = next(n for n in count(num_nodes + 1) if fits(n))
    near = f"{above}" if below is None else f"{below} or {above}"
    raise UserError(f"graph {name!r} with n = {num_nodes}: n must be {rule}, as {near}")
