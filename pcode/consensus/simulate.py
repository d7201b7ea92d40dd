"""An optimizer without gradients, on all nodes at once, and its error beside what theory says."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from pcode.communication.base import Communicator, NoCommunicator
from pcode.compression.base import Compressor, Message
from pcode.optim import ParallelChoco
from pcode.optim.compressed import CompressedOptimizer
from pcode.optim.flat import FlatStore, Groups
from pcode.optim.gossip import Gossip
from pcode.optim.local import LocalStep
from pcode.optim.overlapping import OverlappingOptimizer
from pcode.topology.base import Matrix, Topology
from pcode.utils.errors import NotFiniteError
from pcode.utils.layout import Layout
from pcode.utils.seeding import derive_seed, torch_generator

# Relative error that counts as divergence.
DIVERGED_ERROR = 1e3
# Relative errors below this one may be float32 rounding, which does not decay.
ROUNDING_ERROR = 3e-6
MOST_RECORDS = 1000


class StackedGossip:
    """The rounds of all nodes at once, for an optimizer whose vectors lie back to back in one.

    A vector of n nodes has n times d entries, float64 so that the mean stays where it is through
    1e5 rounds. Compressors take each tensor by itself: one message holds those of all nodes. What
    a compressor draws is not what it draws for each node alone. Gossip's rows of weights `own`,
    `mean` and `mixed` are here whole matrices; None is the identity.
    """

    def __init__(
        self,
        communicator: Communicator,
        topology: Topology,
        compressor: Compressor,
        layout: Layout,
        *,
        seed: int,
        **_: Any,
    ) -> None:
        # Imported here: it takes a third of a second, and a run whose gamma is given needs none.
        from scipy.sparse import csr_array  # noqa: PLC0415

        self._num_nodes, self._num_rounds, self._seed = topology.num_nodes, 0, seed
        self._compressor, self._layout = compressor, layout
        self.own = None
        self.mean = csr_array(topology.matrix)
        self.mixed = csr_array(topology.matrix - np.eye(topology.num_nodes))
        self.message_bytes = compressor.message_bytes(layout)
        self._payload = torch.empty(self.message_bytes, dtype=torch.uint8)
        self._pending: Message | None = None
        self._value, self._reference, self._q = torch.zeros(3, layout.num_entries)

    def send(self, value: torch.Tensor, reference: torch.Tensor | None, step: int) -> None:
        """q = Q(value - reference) of every node."""
        self._num_rounds += 1
        key = derive_seed(self._seed, "consensus", self._num_rounds)
        self._pending = Message(self._payload, key)
        self._value.copy_(value)
        if reference is not None:
            reference = self._reference.copy_(reference)
        self._compressor.encode(self._layout, self._value, reference, self._pending)

    def _decoded(self, message: Message) -> torch.Tensor:
        """q of every node, until the next call."""
        q: torch.Tensor = self._q.zero_()
        self._compressor.accumulate(self._layout, [message], [q], [[1.0]])
        return q

    def add_own(self, target: torch.Tensor) -> None:
        """target += q of every node, after `send`; `receive` may follow."""
        assert self._pending is not None, "nothing was sent"
        target.add_(self._decoded(self._pending))

    def receive(self, targets: Sequence[tuple[torch.Tensor, Any, float]]) -> None:
        """Add factor * matrix @ q to each of (vector, matrix, factor), once after each `send`."""
        if self._pending is None:
            return
        message, self._pending = self._pending, None
        decoded = self._decoded(message)
        for vector, matrix, factor in targets:
            q = decoded.double()
            if matrix is not None:
                q = torch.from_numpy(matrix @ q.view(self._num_nodes, -1).numpy()).view(-1)
            vector.add_(q, alpha=factor)


class _NoStep(LocalStep):
    """No local step."""

    def __init__(self, store: FlatStore, groups: Groups) -> None:
        super().__init__(store, groups)
        self.vectors = {}

    def step(self) -> None:
        pass


class Consensus:
    """Simulate an optimizer with a consensus step size, gamma, on all nodes at once.

    No gradients are involved: `x`, n x d float64, is first a copy of `start`, a row for each node
    with the tensors of `layout`. Compressors draw from `seed`.
    """

    def __init__(
        self,
        optimizer: type[CompressedOptimizer],
        topology: Topology,
        compressor: Compressor,
        layout: Layout,
        start: torch.Tensor,
        *,
        gamma: float,
        seed: int = 0,
    ) -> None:
        n, d = topology.num_nodes, layout.num_entries
        if start.shape != (n, d):
            raise ValueError(f"expected a start of shape ({n}, {d}), got {tuple(start.shape)}")
        pieces = start.to(torch.float64).split(layout.sizes, dim=1)
        tensors = [piece[node].clone() for node in range(n) for piece in pieces]
        stacked = type(optimizer.__name__, (optimizer,), {"dtype": torch.float64})
        self._optimizer: CompressedOptimizer = stacked(
            map(nn.Parameter, tensors),
            NoCommunicator(0, n),
            topology,
            compressor=compressor,
            consensus_stepsize=gamma,
            gossip_class=cast(type[Gossip], StackedGossip),
            seed=seed,
            lr=0.0,
        )
        self._optimizer.local = _NoStep(self._optimizer.store, self._optimizer.param_groups)
        self.x = self._optimizer.x.view(n, d)
        self._mean = self.x.mean(dim=0)
        self._unit = self._distance() or 1.0
        # CHOCO mixes a round in at the start of the next step: its first one mixes nothing in.
        self._starts = issubclass(optimizer, OverlappingOptimizer)

    def round(self) -> None:
        """Take a step: one message from each node to each of its neighbours."""
        for _ in range(1 + self._starts):
            self._optimizer.step()
        self._starts = False

    def _distance(self) -> float:
        return float(torch.linalg.vector_norm(self.x - self._mean))

    @property
    def error(self) -> float:
        """sqrt(sum_i ||x_i - mean||^2), relative to its first value; the mean is the first one."""
        return self._distance() / self._unit


@dataclass(frozen=True)
class Course:
    """The error of a gossip, relative to the start's, after some of the rounds, from 0 on.

    It has diverged where it ended because the error was above DIVERGED_ERROR or not finite.
    """

    rounds: tuple[int, ...]
    errors: tuple[float, ...]
    diverged: bool

    def decay(self) -> float | None:
        """Return the relative decrease of the error per round: .01 where it is multiplied by .99.

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
        """Return the first recorded round with at most this error, or None."""
        pairs = zip(self.rounds, self.errors, strict=True)
        return next((rounds for rounds, reached in pairs if reached <= error), None)


def gossip(consensus: Consensus, num_rounds: int, *, every: int = 1) -> Course:
    """Run num_rounds rounds, or until the error, recorded every so many, has diverged."""
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
    negative eigenvalue is larger in size. One node has none: an IndexError.
    """
    values, vectors = np.linalg.eigh(topology.matrix)
    return float(values[-2]), vectors[:, -2]


@dataclass(frozen=True)
class Setting:
    """One compressor on one graph."""

    graph: str
    num_nodes: int
    gap: float
    slowest: float  # 1 - lambda_2; the gap, unless a negative eigenvalue is larger in size
    compressor: str  # its name and options, short
    delta: float  # the compressor's quality
    message_bytes: int  # to one neighbour
    round_bytes: float  # what a node sends, mean over the nodes


@dataclass(frozen=True)
class Measurement(Setting):
    """The gossip of a setting: the consensus step size used, and the error by round."""

    gamma: float
    course: Course

    @property
    def predicted_decay(self) -> float:
        """What a round takes off the error where compression costs nothing."""
        return self.gamma * self.slowest

    def figures(self) -> dict[str, Any]:
        """Everything measured, for a JSON file."""
        decays = {"decay": self.course.decay(), "predicted_decay": self.predicted_decay}
        return {**dataclasses.asdict(self), **decays}


def label(compressor: Compressor, name: str) -> str:
    """Say what it is and selects, as in `top 1 %`, `random 25 % unbiased` and `qsgd 4`."""
    words = [name.removeprefix("compress_").removeprefix("quantize_").removesuffix("_k")]
    for option, value in compressor.options.items():
        if option == "compress_ratio":
            words.append(f"{100 * (1 - value):.6g} %")
        elif option == "is_biased":
            words += [] if value else ["unbiased"]
        else:
            words.append(str(value))
    return " ".join(words)


def setting_of(topology: Topology, name: str, compressor: Compressor, layout: Layout) -> Setting:
    """Return what is known before anything is played."""
    message_bytes = compressor.message_bytes(layout)
    return Setting(
        graph=topology.name,
        num_nodes=topology.num_nodes,
        gap=topology.spectral_gap,
        slowest=1 - slowest_mode(topology)[0],
        compressor=label(compressor, name),
        delta=compressor.contraction(layout),
        message_bytes=message_bytes,
        round_bytes=message_bytes * 2 * len(topology.edges) / topology.num_nodes,
    )


def starting_vectors(topology: Topology, num_entries: int, start: str, seed: int) -> torch.Tensor:
    """n x d: independent N(0, 1) entries, or one such vector times the slowest eigenvector."""
    draw = torch_generator(seed, "start")
    if start == "random":
        return torch.randn(topology.num_nodes, num_entries, generator=draw)
    direction = torch.randn(num_entries, generator=draw)
    mode = torch.from_numpy(slowest_mode(topology)[1].copy()).float()
    return torch.outer(mode * topology.num_nodes**0.5, direction)


def measure(
    topology: Topology,
    name: str,
    compressor: Compressor,
    layout: Layout,
    *,
    rounds: int,
    gamma: float,
    start: str = "random",
    seed: int = 6,
) -> Measurement:
    """Play the gossip."""
    vectors = starting_vectors(topology, layout.num_entries, start, seed)
    consensus = Consensus(
        ParallelChoco, topology, compressor, layout, vectors, gamma=gamma, seed=seed
    )
    course = gossip(consensus, rounds, every=-(-rounds // MOST_RECORDS))
    setting = setting_of(topology, name, compressor, layout)
    return Measurement(**vars(setting), gamma=gamma, course=course)
