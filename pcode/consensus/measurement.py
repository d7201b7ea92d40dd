"""The gossip of one compressor on one graph, measured beside what theory predicts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from pcode.compression.base import Compressor
from pcode.consensus.gossip import Consensus, Course, gossip, slowest_mode
from pcode.consensus.search import search_gamma
from pcode.layout import Layout
from pcode.seeding import torch_generator
from pcode.topology.base import Topology

MOST_RECORDS = 1000


@dataclass(frozen=True)
class Measurement:
    """The gossip of one compressor on one graph.

    Attributes:
        graph, num_nodes, gap: of the graph.
        slowest: 1 - lambda_2; the gap, unless a negative eigenvalue is larger in size.
        compressor: its name and options, short.
        delta, gamma: the compressor's quality, and the consensus step size used.
        message_bytes: one message to one neighbour.
        round_bytes: what a node sends a round, mean over the nodes.
        course: the error by round.
    """

    graph: str
    num_nodes: int
    gap: float
    slowest: float
    compressor: str
    delta: float
    gamma: float
    message_bytes: int
    round_bytes: float
    course: Course

    @property
    def predicted_decay(self) -> float:
        """What a round takes off the error where compression costs nothing."""
        return self.gamma * self.slowest

    def figures(self) -> dict[str, Any]:
        """Everything measured, for a JSON file."""
        derived = {"decay": self.course.decay(), "predicted_decay": self.predicted_decay}
        return {**dataclasses.asdict(self), **derived}


def label(compressor: Compressor, name: str) -> str:
    """A compressor's name and the options that matter, as in `top_k 0.99`."""
    words = [name.removeprefix("compress_").removeprefix("quantize_")]
    for option in type(compressor).flags:
        value = getattr(compressor, option)
        if not isinstance(value, bool):
            words.append(f"{value:g}")
        elif not value:
            words.append(f"not {option.removeprefix('is_')}")
    return " ".join(words)


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
    gamma: float | None = None,
    start: str = "random",
    seed: int = 6,
) -> Measurement:
    """Play the gossip; without a gamma, with the one that a search finds.

    Raises:
        UserError: the search finds none.
    """
    if gamma is None:
        gamma = search_gamma(topology, compressor, layout, seed).best
    vectors = starting_vectors(topology, layout.num_entries, start, seed)
    consensus = Consensus(topology, compressor, layout, vectors, gamma=gamma, seed=seed)
    message_bytes = compressor.message_bytes(layout)
    return Measurement(
        graph=topology.name,
        num_nodes=topology.num_nodes,
        gap=topology.spectral_gap,
        slowest=1 - slowest_mode(topology)[0],
        compressor=label(compressor, name),
        delta=compressor.contraction(layout),
        gamma=gamma,
        message_bytes=message_bytes,
        round_bytes=message_bytes * 2 * len(topology.edges) / topology.num_nodes,
        course=gossip(consensus, rounds, every=-(-rounds // MOST_RECORDS)),
    )
