"""Compressed gossip of up to 1,000 nodes against the graph's gap: the picture in the docs.

    python benchmarks/consensus.py [--picture FILE.png] [--output FILE.json]

No gradients: the nodes start apart and average by gossip. Drawn: the error of each compressor by
round (solid) and the rate gamma (1 - lambda_2) that gossip without compression has for the same
gamma (dotted). 32 nodes start at N(0, 1); 1,000 nodes start along the slowest eigenvector, which is
what remains of any start.

Vectors of 16 entries, with gamma from `search_gamma`, decay at that rate. In long vectors sign's
residual becomes ever more unequal and its delta falls towards 1 / d, so that its error lingers:
the last panel has tensors as large as ResNet-20's, with the compressors' default gammas.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness import keep
from pcode.compression import COMPRESSORS, make_compressor
from pcode.consensus import Measurement, measure, search_gamma
from pcode.tools.consensus import HIGHEST_ERROR, LOWEST_ERROR, draw_course, finish_panel, table
from pcode.topology import make_topology
from pcode.utils.layout import Layout
from pcode.utils.options import options_of

SMALL = {"compress_ratio": 0.75, "quantize_level": 4, "is_biased": True}
LARGE = {"compress_ratio": 0.99, "quantize_level": 8, "is_biased": True}
KEPT_RECORDS = 100


@dataclass(frozen=True)
class Panel:
    """Gossip of some compressors on one graph.

    Attributes:
        entries: of each tensor.
        rounds: to play; those of a compressor in `fewer` only so many.
        searched: whether gamma is found by the search, not the compressor's default.
    """

    graph: str
    num_nodes: int
    start: str
    rounds: int
    entries: tuple[int, ...] = (16,)
    options: dict[str, float] = field(default_factory=lambda: SMALL)
    compressors: tuple[str, ...] = tuple(COMPRESSORS)
    searched: bool = True
    fewer: dict[str, int] = field(default_factory=dict)

    @property
    def title(self) -> str:
        entries = " + ".join(f"{size:,}" for size in self.entries)
        return f"{self.graph}, {self.num_nodes:,} nodes, {entries} entries"


FEWER = {"compress_top_k": 2_500, "compress_random_k": 20_000, "quantize_qsgd": 20_000}
PANELS = (
    Panel("ring", 32, "random", 2000),
    Panel("torus", 32, "random", 400),
    Panel("social", 32, "random", 400),
    Panel("ring", 1000, "slowest", 80_000, fewer=FEWER),
    Panel("torus", 1000, "slowest", 2_000),
    Panel(
        "torus",
        32,
        "random",
        500,
        entries=(36_864, 2_304),
        options=LARGE,
        compressors=("sign", "compress_top_k", "compress_random_k", "quantize_qsgd"),
        searched=False,
    ),
)


def play(panel: Panel) -> list[Measurement]:
    """Every compressor on the panel's graph."""
    topology = make_topology(panel.graph, panel.num_nodes)
    layout, found = Layout.of_sizes(panel.entries), []
    for name in panel.compressors:
        flags = options_of(COMPRESSORS[name])
        compressor = make_compressor(name, **{flag: panel.options[flag] for flag in flags})
        gamma = compressor.default_consensus_stepsize
        if panel.searched:
            gamma = search_gamma(topology, compressor, layout, seed=6).best
        rounds = panel.fewer.get(name, panel.rounds)
        found.append(
            measure(
                topology, name, compressor, layout, rounds=rounds, gamma=gamma, start=panel.start
            )
        )
    return found


def colour(name: str) -> str:
    """The same one for a kind of compressor in all panels."""
    kinds = ("none", "sign", "top", "random", "qsgd")
    return f"C{kinds.index(name.split(maxsplit=1)[0])}"


def draw_prediction(panel: Axes, measurement: Measurement, **line: Any) -> None:
    """Draw exp(-gamma (1 - lambda_2) t), through the last record above LOWEST_ERROR."""
    course = measurement.course
    if course.diverged:
        return
    pairs = zip(course.rounds, course.errors, strict=True)
    last, error = [(at, error) for at, error in pairs if error > 3 * LOWEST_ERROR][-1]
    decay = measurement.predicted_decay
    first = max(0.0, last - math.log(HIGHEST_ERROR / error) / decay)
    panel.plot([first, last], [error * math.exp(decay * (last - first)), error], **line)


def draw_panel(place: Axes, panel: Panel, measurements: Sequence[Measurement]) -> None:
    """Courses and predictions, with the names and both decays in a corner."""
    slow = panel.start == "slowest"
    below = slow or not panel.searched
    lowest = min(each.course.errors[-1] for each in measurements)
    finish_panel(place, lowest=0.8 * lowest, highest=1.02 if slow else HIGHEST_ERROR)
    place.set_title(panel.title, fontsize=9)
    place.set_xlabel("round")
    for index, each in enumerate(measurements):
        name = each.compressor
        # No compression shows from under a compressor that is as fast.
        draw_course(place, each, color=colour(name), linewidth=4.0 if name == "none" else 1.5)
        draw_prediction(place, each, color=colour(name), linestyle=":", linewidth=2.5, alpha=0.6)
        decay = each.course.decay()
        measured = "-" if decay is None else f"{decay:.2g}"
        place.text(
            0.03 if below else 0.98,
            (0.38 if below else 0.97) - 0.07 * index,
            f"{name}: {measured} ({each.predicted_decay:.2g})",
            color=colour(name),
            fontsize=7,
            ha="left" if below else "right",
            va="top",
            transform=place.transAxes,
        )
    place.set_xlim(0, panel.rounds)
    place.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))


def draw(panels: Sequence[tuple[Panel, list[Measurement]]], path: Path) -> None:
    """A panel for each setting."""
    figure = Figure(figsize=(10.5, 6.4), layout="constrained")
    for place, (panel, measurements) in zip(figure.subplots(2, 3).flat, panels, strict=True):
        draw_panel(place, panel, measurements)
    figure.supylabel(r"$\|X-\bar{X}\|_F$ relative to the start")
    figure.legend(
        [
            Line2D([], [], color="0.4"),
            Line2D([], [], color="0.4", linestyle=":", linewidth=2.5),
        ],
        ["measured", r"predicted, $e^{-\gamma (1-\lambda_2) t}$"],
        title="in the panels: decay a round, measured (predicted)",
        loc="outside upper center",
        ncols=2,
        frameon=False,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def thinned(measurement: Measurement) -> Measurement:
    """The same with no more records than a file needs."""
    course = measurement.course
    step = -(-len(course.rounds) // KEPT_RECORDS)
    kept = dataclasses.replace(course, rounds=course.rounds[::step], errors=course.errors[::step])
    return dataclasses.replace(measurement, course=kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--picture", type=Path, default=Path("consensus.png"))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    panels = [(panel, play(panel)) for panel in PANELS]
    kept = [
        {
            "panel": dataclasses.asdict(panel),
            "measurements": [
                {**each.figures(), "course": dataclasses.asdict(thinned(each).course)}
                for each in found
            ],
        }
        for panel, found in panels
    ]
    keep(arguments.output, {"panels": kept})
    print(*table([each for _, measurements in panels for each in measurements]), sep="\n")
    draw(panels, arguments.picture)


if __name__ == "__main__":
    main()
