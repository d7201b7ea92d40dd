"""The slow-network benchmark in tables and pictures.

python slow_network_report.py FIGURES.json MARKDOWN FOLDER makes them again from kept figures.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from pcode.tools.results_picture import COLOURS, DASHES, MARKERS, PART_STYLES, STYLE
from pcode.utils.timing import PARTS
from peers import PEERS

TITLES = {"vgg11": "VGG-11 (9.23 M parameters)", "resnet20": "ResNet-20 (.27 M parameters)"}
SHOWN = tuple(part for part in PARTS if part != "data")
# What the pictures' curves and bars are of; the table has all.
NO_LIMIT = "no limit"


@dataclass(frozen=True)
class Figures:
    """What was measured.

    Attributes:
        nodes, batch_size: of every run; batch_size of a node.
        target: test top-1 in %.
        accuracy_rate: Mbit/s at which accuracy was measured.
        steps: model -> rate of the links -> method -> a row for each round (see the rank); where
            there was no communication it has no time "alone".
        accuracy: model -> method -> learning rate, bytes, and curve of test top-1.
    """

    nodes: int
    batch_size: int
    target: float
    accuracy_rate: float
    steps: dict[str, dict[str, dict[str, list[dict[str, float]]]]]
    accuracy: dict[str, dict[str, Any]]

    def median(self, arch: str, rate: str, method: str, figure: str = "total") -> float:
        """Of a step: seconds, of the whole or of a part, or bytes that left a host."""
        return statistics.median(row[figure] for row in self.steps[arch][rate][method])

    def ratio(self, arch: str, rate: str, method: str) -> float:
        """A step's time in steps without communication of the same round, median."""
        rows = self.steps[arch][rate][method]
        return statistics.median(row["total"] / row.get("alone", row["total"]) for row in rows)

    def to_target(self, arch: str, method: str) -> dict[str, float] | None:
        """The first evaluation that reached the target; None: there was none."""
        curve = self.accuracy[arch][method]["curve"]
        return next((point for point in curve if point["test_top1"] >= self.target), None)


def read(path: Path) -> tuple[Figures, dict[str, Any]]:
    """Kept figures, and all that is kept with them."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    return Figures(**{field.name: kept[field.name] for field in fields(Figures)}), kept


def _table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _steps_table(figures: Figures, arch: str) -> Iterator[str]:
    """Time of a step at each rate."""
    rates = figures.steps[arch]
    head = ["", "MB a step", *(_rate(rate) for rate in rates)]
    rows = []
    for method in next(iter(rates.values())):
        sent = [figures.median(arch, rate, method, "link_bytes") for rate in rates]
        cells = [
            f"{figures.median(arch, rate, method):.3f} s ({figures.ratio(arch, rate, method):.2f})"
            for rate in rates
        ]
        rows.append([PEERS[method].title, f"{statistics.median(sent) / 1e6:.2f}", *cells])
    yield f"Time of a step, and in steps without communication; {TITLES[arch]}:"
    yield ""
    yield from _table(head, rows)


def _parts_table(figures: Figures, arch: str, rate: str) -> Iterator[str]:
    """Where the time of a step goes at one rate."""
    rows = [
        [
            PEERS[method].title,
            *(f"{1e3 * figures.median(arch, rate, method, part):.0f}" for part in SHOWN),
        ]
        for method in figures.steps[arch][rate]
    ]
    yield (
        f"Parts of a step at {_rate(rate)}, ms ({TITLES[arch]}). DDP's all-reduce is in its "
        "backward; CHOCO with sign does all but waiting in one pass, its local update:"
    )
    yield ""
    yield from _table(["", *(part.replace("_", " ") for part in SHOWN)], rows)


def _accuracy_table(figures: Figures, arch: str) -> Iterator[str]:
    """Time to the target, as measured, and at the other rates from the time of a step."""
    rates = figures.steps[arch]
    measured = f"{figures.accuracy_rate:g}"
    others = [rate for rate in rates if rate != measured]
    head = [
        *("", "steps", f"{_rate(measured)}, measured"),
        *(f"{_rate(rate)}, steps x time" for rate in others),
    ]
    rows = []
    for method in figures.accuracy[arch]:
        point = figures.to_target(arch, method)
        if point is None:
            last = figures.accuracy[arch][method]["curve"][-1]
            text = f"{last['test_top1']:.1f} % after {last['seconds']:.0f} s"
            rows.append([PEERS[method].title, "-", text, *["-"] * len(others)])
            continue
        derived = [point["step"] * figures.median(arch, rate, method) for rate in others]
        times = [f"{seconds:.0f} s" for seconds in (point["seconds"], *derived)]
        rows.append([PEERS[method].title, f"{point['step']:.0f}", *times])
    rate = next(iter(figures.accuracy[arch].values()))["learning_rate"]
    yield (
        f"To {figures.target:g} % test top-1 on digits (mean over the nodes' models; learning rate "
        f"{rate:g}; {TITLES[arch]}):"
    )
    yield ""
    yield from _table(head, rows)


def _rate(name: str) -> str:
    return name if name == NO_LIMIT else f"{name} Mbit/s"


def markdown(figures: Figures, facts: dict[str, Any]) -> str:
    """All tables.

    Args:
        facts: what it was measured on, by `harness.machine`.
    """
    lines = [
        f"{figures.nodes} hosts in a ring, a node on each, batch {figures.batch_size} a node; "
        f"{facts['date']}, {facts['processor']}, {facts['cores']} cores, "
        f"{facts['memory_gib']} GiB, {facts['kernel']}, Python {facts['python']}, "
        f"PyTorch {facts['torch']}, NumPy {facts['numpy']}, Numba {facts['numba']}, "
        f"Open MPI {facts['openmpi']}, mpi4py {facts['mpi4py']}; `{facts['command']}`.",
        "",
    ]
    for arch, rates in figures.steps.items():
        lines += _steps_table(figures, arch)
        middle = f"{figures.accuracy_rate:g}"
        if middle in rates:
            lines += _parts_table(figures, arch, middle)
        if arch in figures.accuracy:
            lines += _accuracy_table(figures, arch)
    return "\n".join(lines)


def draw(figures: Figures, folder: Path) -> None:
    """steps.png: time of a step at each rate; parts.png: where it goes; accuracy.png: over time."""
    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, panel in (
            ("steps", _draw_steps),
            ("parts", _draw_parts),
            ("accuracy", _draw_accuracy),
        ):
            size = (3.6 * len(figures.steps), 3.0)
            chart, panels = plt.subplots(
                1, len(figures.steps), figsize=size, squeeze=False, layout="constrained"
            )
            for axes, arch in zip(panels[0], figures.steps, strict=True):
                axes.set_title(TITLES[arch], fontsize=8)
                panel(axes, figures, arch)
            handles, labels = panels[0][0].get_legend_handles_labels()
            chart.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
            chart.savefig(folder / f"{name}.png", dpi=200)
            plt.close(chart)


def _style(method: str) -> dict[str, Any]:
    """No two methods share colour, dashes and marker."""
    index = list(PEERS).index(method)
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
        "label": PEERS[method].title,
    }


def _draw_steps(axes: Any, figures: Figures, arch: str) -> None:
    rates = list(figures.steps[arch])
    for method in next(iter(figures.steps[arch].values())):
        ratios = [figures.ratio(arch, rate, method) for rate in rates]
        axes.plot(range(len(rates)), ratios, **_style(method))
    axes.set_yscale("log")
    axes.set_xticks(range(len(rates)), rates)
    axes.set_xlabel("rate of the links (Mbit/s)")
    axes.set_ylabel("step (steps without communication)")
    axes.grid(alpha=0.3, which="both")


def _draw_parts(axes: Any, figures: Figures, arch: str) -> None:
    rate = f"{figures.accuracy_rate:g}"
    rows = figures.steps[arch].get(rate)
    if rows is None:
        return
    base = figures.median(arch, rate, "none")
    methods = list(rows)[::-1]
    starts = [0.0] * len(methods)
    for part in SHOWN:
        widths = [figures.median(arch, rate, method, part) / base for method in methods]
        axes.barh(
            range(len(methods)),
            widths,
            left=starts,
            label=part.replace("_", " "),
            edgecolor="black",
            linewidth=0.3,
            **PART_STYLES[part],
        )
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    axes.set_yticks(range(len(methods)), [PEERS[method].title for method in methods])
    # The longest bars would hide the others.
    axes.set_xlim(0, 6)
    for row, end in enumerate(starts):
        if end > 6:
            axes.annotate(f"{end:.1f}", (5.95, row), ha="right", va="center", fontsize=7)
    axes.set_xlabel(f"step at {_rate(rate)} (1: no communication)")


def _draw_accuracy(axes: Any, figures: Figures, arch: str) -> None:
    for method, found in figures.accuracy.get(arch, {}).items():
        curve = found["curve"]
        axes.plot(
            [point["seconds"] for point in curve],
            [point["test_top1"] for point in curve],
            **_style(method),
        )
    axes.axhline(figures.target, color="grey", linewidth=0.6)
    axes.set_xscale("log")
    axes.set_xlabel(f"seconds at {figures.accuracy_rate:g} Mbit/s")
    axes.set_ylabel("test top-1 (%), mean over nodes")
    axes.grid(alpha=0.3, which="both")


def main() -> None:
    source, text, folder = map(Path, sys.argv[1:])
    figures, facts = read(source)
    text.write_text(markdown(figures, facts), encoding="utf-8")
    draw(figures, folder)


if __name__ == "__main__":
    main()
