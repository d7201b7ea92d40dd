"""The gossip of one compressor on one graph, measured beside what theory predicts."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from pcode.compression.base import Compressor
from pcode.consensus.gossip import Consensus, Course, gossip, slowest_mode
from pcode.optim import ParallelChoco
from pcode.topology.base import Topology
from pcode.utils.layout import Layout
from pcode.utils.seeding import torch_generator

MOST_RECORDS = 1000


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
        known = dataclasses.asdict(self)
        course = known.pop("course")
        decays = {"decay": self.course.decay(), "predicted_decay": self.predicted_decay}
        return {**known, **decays, "course": course}


def label(compressor: Compressor, name: str) -> str:
    """What it is and what is selected, as in `top 1 %`, `random 25 % unbiased` and `qsgd 4`."""
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
    """What is known before anything is played."""
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
