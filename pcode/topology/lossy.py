"""A graph some of whose messages are lost."""

from __future__ import annotations

from dataclasses import dataclass

from pcode.topology.base import Graph, Mixing, TimeVarying
from pcode.utils.seeding import derive_seed

_ALL = 1 << 63  # the seeds that derive_seed draws from


@dataclass(frozen=True)
class LossyMixing(Mixing):
    """A round without the messages that are lost: their weight is the receiver's own.

    Rows of W sum to 1, columns need not.

    Attributes:
        mixing: the round without losses.
        step: its number, which with seed, sender and receiver decides what is lost.
    """

    mixing: Mixing
    step: int
    probability: float
    seed: int

    def _arrives(self, sender: int, receiver: int) -> bool:
        drawn = derive_seed(self.seed, "lost message", self.step, sender, receiver)
        return drawn >= self.probability * _ALL

    def senders(self, rank: int) -> tuple[int, ...]:
        return tuple(peer for peer in self.mixing.senders(rank) if self._arrives(peer, rank))

    def receivers(self, rank: int) -> tuple[int, ...]:
        return tuple(peer for peer in self.mixing.receivers(rank) if self._arrives(rank, peer))

    def weights(self, rank: int) -> dict[int, float]:
        weights, came = self.mixing.weights(rank), {*self.senders(rank), rank}
        lost = sum(weight for peer, weight in weights.items() if peer not in came)
        own = {rank: weights.get(rank, 0.0) + lost}
        return dict(sorted({j: w for j, w in (weights | own).items() if j in came}.items()))


class Lossy(TimeVarying):
    """A graph on which each message is lost with a probability, by draws that both ends know.

    A lost message is not sent. The spectral gap and the degree are those without losses.

    Args:
        graph: without losses.
    """

    period = None

    def __init__(self, graph: Graph, probability: float, seed: int) -> None:
        super().__init__(graph.name, graph.num_nodes)
        self.graph, self.probability, self._seed = graph, probability, seed
        self.notices = graph.notices

    def on(self, graph: Graph) -> Lossy:
        """Return another graph with the same losses."""
        return Lossy(graph, self.probability, self._seed)

    @property
    def spectral_gap(self) -> float:
        return self.graph.spectral_gap

    def degree(self, rank: int) -> int:
        return self.graph.degree(rank)

    def at(self, step: int) -> LossyMixing:
        return LossyMixing(self.graph.at(step), step, self.probability, self._seed)


def without_losses(graph: Graph) -> Graph:
    """Return the graph itself, whatever is lost on it."""
    return graph.graph if isinstance(graph, Lossy) else graph
