"""Compressed gossip converges linearly, at the rate of the graph's gap: the picture in the docs.

    python benchmarks/consensus.py [--picture FILE.png] [--output FILE.json]

No gradients: the nodes start apart and average by gossip, with the consensus step size that
`search_gamma` finds. Drawn: the error of each compressor by round (solid) and the rate
gamma (1 - lambda_2) that gossip without compression has for the same gamma (dotted). 32 nodes start
at N(0, 1); 1,000 nodes start along the slowest eigenvector, which is what remains of any start.

Vectors have 16 entries, of which top-k and random-k send 4. In long vectors sign's residual becomes
ever more unequal and its delta falls towards 1 / d, so that its error lingers at some 1e-2.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness import keep
from pcode.compression import COMPRESSORS, make_compressor
from pcode.consensus import Measurement, measure
from pcode.layout import Layout
from pcode.tools.consensus import table
from pcode.tools.consensus_picture import HIGHEST_ERROR, draw_course, draw_prediction, finish_panel
from pcode.topology import make_topology

NUM_ENTRIES = 16
OPTIONS = {"compress_ratio": 0.75, "quantize_level": 4, "is_biased": True}
KEPT_RECORDS = 100


@dataclass(frozen=True)
class Setting:
    """A panel."""

    graph: str
    num_nodes: int
    start: str
    rounds: int


SETTINGS = (
    Setting("ring", 32, "random", 2000),
    Setting("torus", 32, "random", 400),
    Setting("social", 32, "random", 400),
    Setting("ring", 1000, "slowest", 10_000),
    Setting("torus", 1000, "slowest", 2_000),
)


def play(setting: Setting) -> list[Measurement]:
    """Every compressor on the setting's graph."""
    topology = make_topology(setting.graph, setting.num_nodes)
    return [
        measure(
            topology,
            name,
            make_compressor(name, **{flag: OPTIONS[flag] for flag in kind.flags}),
            Layout.of_sizes([NUM_ENTRIES]),
            rounds=setting.rounds,
            start=setting.start,
        )
        for name, kind in COMPRESSORS.items()
    ]


def draw(panels: Sequence[tuple[Setting, list[Measurement]]], path: Path) -> None:
    """A panel for each setting, with measured and predicted decay in its corner."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    places = figure.subplots(2, 3).flat
    for place, (setting, measurements) in zip(places, panels, strict=False):
        slow = setting.start == "slowest"
        lowest = min(each.course.errors[-1] for each in measurements)
        finish_panel(place, lowest=lowest, highest=1.02 if slow else HIGHEST_ERROR)
        place.set_title(f"{setting.graph}, {setting.num_nodes:,} nodes", fontsize=10)
        place.set_xlabel("round")
        for index, each in enumerate(measurements):
            # The first one, none, shows from under a compressor that is as fast.
            width = 1.5 if index else 4.0
            draw_course(place, each, color=f"C{index}", label=each.compressor, linewidth=width)
            draw_prediction(place, each, color=f"C{index}", linestyle=":", linewidth=2.5, alpha=0.6)
            decay = each.course.decay()
            words = "" if decay is None else f"{decay:.2g}  ({each.predicted_decay:.2g})"
            place.text(
                0.04 if slow else 0.98,
                (0.38 if slow else 0.97) - 0.08 * index,
                words,
                color=f"C{index}",
                fontsize=8,
                ha="left" if slow else "right",
                va="top",
                transform=place.transAxes,
            )
        place.set_xlim(0, setting.rounds)
        place.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
    figure.supylabel(r"$\|X-\bar{X}\|_F$ relative to the start")
    handles, names = figure.axes[0].get_legend_handles_labels()
    for place in figure.axes[len(panels) :]:
        place.axis("off")
        dotted = Line2D([], [], color="0.4", linestyle=":", linewidth=2.5)
        place.legend(
            [*handles, dotted],
            [*names, r"predicted, $e^{-\gamma (1-\lambda_2) t}$"],
            loc="center",
            frameon=False,
            title="decay a round: measured (predicted)",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


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
    panels = [(setting, play(setting)) for setting in SETTINGS]
    print(*table([each for _, measurements in panels for each in measurements]), sep="\n")
    draw(panels, arguments.picture)
    kept = [
        {
            "setting": dataclasses.asdict(setting),
            "measurements": [
                {**each.figures(), **dataclasses.asdict(thinned(each))} for each in found
            ],
        }
        for setting, found in panels
    ]
    keep(arguments.output, {"entries": NUM_ENTRIES, "options": OPTIONS, "panels": kept})


if __name__ == "__main__":
    main()
