"""The gossip of CHOCO and of DeepSqueeze on all nodes at once, and the course of its error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from pcode.compression.base import Compressor, Message
from pcode.topology.base import Matrix, Topology
from pcode.utils.errors import NotFiniteError
from pcode.utils.layout import Layout
from pcode.utils.seeding import derive_seed

# An error so many times the start's does not come back.
DIVERGED_ERROR = 1e3
# Relative errors below this one may be float32 rounding, which does not decay.
ROUNDING_ERROR = 3e-6


class Consensus:
    """q = Q(x - hat) ; hat += q ; z += (W - I) q ; x += gamma z, from hat = z = 0, on all nodes.

    That is the recursion of `pcode.optim.ParallelChoco` with gradients of 0; a round here ends
    with the mixing that the optimizer does at the start of its next step. The nodes' vectors lie
    back to back in one vector, whose layout is every node's tensors in turn. Compressors take each
    tensor by itself, so that one message holds those of all nodes.

    Source: CHOCO-Gossip of Koloskova, Stich, Jaggi, "Decentralized stochastic optimization and
    gossip algorithms with compressed communication", ICML 2019, arXiv 1902.00340. Differences:
    z stands for sum_j w_ij hat_j - hat_i; it and x are float64 here, so that the mean stays where
    it is through 1e5 rounds. A compressor that draws does not draw what it draws for the optimizer.

    Args:
        layout: the tensors of one node.
        start: n x d, one row for each node; copied.
        gamma: the consensus step size.
        seed: for compressors that draw.

    Attributes:
        x: n x d float64.
        converges: whether what compression leaves out vanishes as the nodes come to agree.
    """

    converges: ClassVar[bool] = True

    def __init__(
        self,
        topology: Topology,
        compressor: Compressor,
        layout: Layout,
        start: torch.Tensor,
        *,
        gamma: float,
        seed: int = 0,
    ) -> None:
        # Here, because it takes a third of a second and a run whose gamma is given needs none.
        from scipy.sparse import csr_array  # noqa: PLC0415

        n, d = topology.num_nodes, layout.num_entries
        if start.shape != (n, d):
            raise ValueError(f"expected a start of shape ({n}, {d}), got {tuple(start.shape)}")
        self._compressor, self._gamma, self._seed = compressor, gamma, seed
        self._layout = Layout.of_sizes(layout.sizes * n)
        self._num_rounds = 0
        self.x = start.to(torch.float64, copy=True)
        self._z = torch.zeros_like(self.x)
        # hat of CHOCO, e of DeepSqueeze.
        self._memory, self._single, self._q = torch.zeros(3, n * d)
        self._laplacian = csr_array(topology.matrix - np.eye(n))
        self._payload = torch.empty(compressor.message_bytes(self._layout), dtype=torch.uint8)
        self._mean = self.x.mean(dim=0)
        self._unit = self._distance() or 1.0

    def round(self) -> None:
        """One message from each node to each of its neighbours.

        Raises:
            NotFiniteError: the compressor met NaN or infinity.
        """
        self._single.copy_(self.x.view(-1))
        self._z += self._exchange(self._single, self._memory, 1.0)
        self.x.add_(self._z, alpha=self._gamma)

    def _exchange(
        self, value: torch.Tensor, reference: torch.Tensor | None, own: float
    ) -> torch.Tensor:
        """(W - I) q with q = Q(value - reference); adds own * q to the memory."""
        self._num_rounds += 1
        message = Message(self._payload, derive_seed(self._seed, "consensus", self._num_rounds))
        self._compressor.encode(self._layout, value, reference, message)
        self._q.zero_()
        targets = [self._memory, self._q]
        self._compressor.accumulate(self._layout, [message], targets, [[own], [1.0]])
        return torch.from_numpy(self._laplacian @ self._q.view_as(self.x).numpy())

    def _distance(self) -> float:
        return float(torch.linalg.vector_norm(self.x - self._mean))

    @property
    def error(self) -> float:
        """sqrt(sum_i ||x_i - mean||^2) by that of the start, with the mean of the start."""
        return self._distance() / self._unit


class DeepSqueezeConsensus(Consensus):
    """e += x ; c = Q(e) ; e -= c ; x += gamma (W - I) c, from e = 0, on all nodes.

    That is the recursion of `pcode.optim.DeepSqueeze` with gradients of 0. c holds x itself, not
    a difference that vanishes: nodes that agree are driven apart, by gamma times what e changes.

    Source: Algorithm 1 of Tang et al., arXiv 1907.07346.
    """

    converges = False

    def round(self) -> None:
        self._memory += self.x.view(-1)
        self.x.add_(self._exchange(self._memory, None, -1.0), alpha=self._gamma)


@dataclass(frozen=True)
class Course:
    """The error of a gossip by round.

    Attributes:
        rounds: those whose error was taken, from 0 on.
        errors: relative to the start's, one for each of `rounds`.
        diverged: it ended because the error was above DIVERGED_ERROR or not finite.
    """

    rounds: tuple[int, ...]
    errors: tuple[float, ...]
    diverged: bool

    def decay(self) -> float | None:
        """What an asymptotic round takes off the error: .01 where it is multiplied by .99.

        From the slope of log(error) over the last half of the rounds before rounding takes over;
        None where there are no two such records.
        """
        above = [error > ROUNDING_ERROR for error in self.errors]
        end = above.index(False) if False in above else len(above)
        taken = [index for index in range(end) if 2 * self.rounds[index] >= self.rounds[end - 1]]
        if self.diverged or len(taken) < 2:
            return None
        rounds = [self.rounds[index] for index in taken]
        slope = np.polyfit(rounds, [math.log(self.errors[index]) for index in taken], 1)[0]
        return -math.expm1(slope)

    def rounds_to(self, error: float) -> int | None:
        """The first recorded round with at most this error, or None."""
        pairs = zip(self.rounds, self.errors, strict=True)
        return next((rounds for rounds, reached in pairs if reached <= error), None)


def gossip(consensus: Consensus, num_rounds: int, *, every: int = 1) -> Course:
    """Play so many rounds, or until the error has diverged.

    Args:
        every: rounds from one record of the error to the next.
    """
    rounds, errors = [0], [consensus.error]
    for index in range(1, num_rounds + 1):
        try:
            consensus.round()
        except NotFiniteError:
            return Course(tuple(rounds), tuple(errors), diverged=True)
        if index % every == 0 or index == num_rounds:
            error = consensus.error
            if not error <= DIVERGED_ERROR:
                return Course(tuple(rounds), tuple(errors), diverged=True)
            rounds.append(index)
            errors.append(error)
    return Course(tuple(rounds), tuple(errors), diverged=False)


def slowest_mode(topology: Topology) -> tuple[float, Matrix]:
    """lambda_2, the second largest eigenvalue of W, and an eigenvector of norm 1 (n numbers).

    Along it, gossip without compression leaves 1 - gamma (1 - lambda_2) of the error a round. For
    gamma below 1 / beta that is the slowest of all; 1 - lambda_2 is the spectral gap unless a
    negative eigenvalue is larger in size.

    Raises:
        ValueError: the graph is one node.
    """
    if topology.num_nodes < 2:
        raise ValueError("one node has no second eigenvalue")
    values, vectors = np.linalg.eigh(topology.matrix)
    return float(values[-2]), vectors[:, -2]
