"""Pictures of runs for print: their courses with a band over seeds, and where a step's time goes.

Sized for a column of a paper (3.5 in). Colours are Okabe and Ito's, told apart with any kind of
sight, and no two curves share colour, dashes and marker, so that they also differ in grey.
"""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatterMathtext, LogLocator, NullFormatter

from pcode.tools.results_groups import Group
from pcode.tools.results_runs import DIVERGED, Metric, Point
from pcode.utils.timing import PARTS

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (4, 1, 1, 1)), (0, (1.5, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MOST_MARKERS = 8  # of a curve
LEGEND_LETTERS, BAR_LETTERS = 54, 26  # of a line
WIDTH, PANEL_HEIGHT, LEGEND_LINE, LETTER = 3.5, 2.1, 0.15, 0.052  # inches
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.5,
    # Journals refuse the fonts that are the default (type 3), and text stays text.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}
# Every second part is hatched: neighbours differ also in grey.
PART_STYLES = {
    part: {"color": colour, "hatch": hatch}
    for part, colour, hatch in zip(
        (*PARTS, "other"),
        ("#E69F00", "#56B4E9", "#0072B2", "#F0E442", "#009E73", "#D9D9D9", "#CC79A7", "#FFFFFF"),
        ("", "////", "", "....", "", "\\\\\\\\", "", "xxxx"),
        strict=True,
    )
}


@dataclass(frozen=True)
class Curve:
    """The course of one or more runs.

    Attributes:
        x: where all of them have a value.
        values: of each run, at each x.
        breaks_off: whether the runs diverged after the last x.
    """

    label: str
    x: Sequence[float]
    values: Sequence[Sequence[float]]
    breaks_off: bool = False

    @property
    def mean(self) -> list[float]:
        return [statistics.fmean(column) for column in zip(*self.values, strict=True)]

    @property
    def band(self) -> tuple[list[float], list[float]]:
        """A standard deviation below and above the mean, below not past 0 where no run is."""
        columns = list(zip(*self.values, strict=True))
        deviations = [statistics.stdev(column) for column in columns]
        sides = list(zip(columns, self.mean, deviations, strict=True))
        low = [
            mean - error if mean > error or min(column) < 0 else min(column)
            for column, mean, error in sides
        ]
        return low, [mean + error for _, mean, error in sides]


def line_style(index: int) -> dict[str, Any]:
    """Colour, dashes and marker of the curve of that number; they repeat after 56 curves."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def draw_curve(panel: Axes, curve: Curve, index: int) -> None:
    """Mean, band where there are several runs, and a cross where they break off."""
    style = line_style(index)
    mean = curve.mean
    every = max(1, math.ceil(len(mean) / MOST_MARKERS))
    if len(mean) == 1:
        # A marker alone, above the lines.
        style |= {"linestyle": "", "zorder": 3}
    panel.plot(curve.x, mean, label=curve.label, markevery=(index % every, every), **style)
    if len(curve.values) > 1:
        panel.fill_between(curve.x, *curve.band, color=style["color"], alpha=0.2, linewidth=0)
    if curve.breaks_off and mean:
        panel.plot(curve.x[-1], mean[-1], "x", color=style["color"], markersize=7)


@dataclass(frozen=True)
class Quantity:
    """Something recorded at each evaluation, and how an axis shows it."""

    label: str
    of: Callable[[Point], float | None]
    log: bool = False


EPOCHS = Quantity("epoch", lambda point: point.epoch)
MEGABYTES = Quantity(
    "sent by a node (MB)",
    lambda point: None if point.bytes_sent is None else point.bytes_sent / 1e6,
    log=True,
)
SECONDS = Quantity("training time (s)", lambda point: point.seconds)
CONSENSUS = Quantity("consensus distance", lambda point: point.consensus_distance, log=True)
AGAINST = {"epochs": EPOCHS, "bytes": MEGABYTES, "time": SECONDS}


def curve_of(group: Group, x: Quantity, y: Quantity) -> Curve:
    """The counted runs of a group where all have both; on a log axis only what is above 0."""
    courses = [
        {
            point.step: (across, up)
            for point in run.points
            if (across := x.of(point)) is not None
            and (up := y.of(point)) is not None
            and not (x.log and across <= 0)
            and not (y.log and up <= 0)
        }
        for run in group.counted
    ]
    # A run without any record, as one that was just started, takes no other off the picture.
    courses = [course for course in courses if course]
    steps = sorted(set.intersection(*map(set, courses))) if courses else []
    return Curve(
        label=textwrap.fill(group.title, LEGEND_LETTERS),
        x=[statistics.fmean(course[step][0] for course in courses) for step in steps],
        values=[[course[step][1] for step in steps] for course in courses],
        breaks_off=all(run.state == DIVERGED for run in group.counted),
    )


def course_figure(groups: Sequence[Group], x: Quantity, y: Quantity) -> Figure | None:
    """One panel with a curve for each group; None where nothing was recorded of any."""
    curves = [(index, curve_of(group, x, y)) for index, group in enumerate(groups)]
    curves = [(index, curve) for index, curve in curves if curve.x]
    if not curves:
        return None
    figure, panel = _figure([curve.label for _, curve in curves])
    for index, curve in curves:
        draw_curve(panel, curve, index)
    panel.set_xlabel(x.label)
    panel.set_ylabel(y.label)
    panel.grid(alpha=0.3, linewidth=0.4)
    panel.spines[["top", "right"]].set_visible(False)
    if x.log:
        panel.set_xscale("log")
        _label_decades(panel.xaxis)
    if y.log:
        panel.set_yscale("log")
        _cut_off(panel, [curve for _, curve in curves])
        _label_decades(panel.yaxis)
    _legend(figure, [curve.label for _, curve in curves])
    return figure


def _cut_off(panel: Axes, curves: Sequence[Curve]) -> None:
    """Let curves that diverge leave at the top, a decade above the others."""
    highest = [max(curve.mean) for curve in curves if not curve.breaks_off]
    if highest and panel.get_ylim()[1] > 10 * max(highest):
        panel.set_ylim(top=10 * max(highest))


def _label_decades(axis: Axis) -> None:
    """Plain 1, 2, 5 on a log axis of few decades, plain tens on more, then powers of 10."""
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    if decades <= 3:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades <= 2 else (1,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axis.set_major_formatter(LogFormatterMathtext())
    axis.set_minor_formatter(NullFormatter())


def _columns(labels: Sequence[str]) -> int:
    """How many of a legend's labels stand side by side."""
    longest = max(len(line) for label in labels for line in label.splitlines())
    return max(1, min(len(labels), int(WIDTH / (LETTER * longest + 0.5))))


def _figure(labels: Sequence[str], panel_height: float = PANEL_HEIGHT) -> tuple[Figure, Axes]:
    """A figure as high as the panel and its legend need."""
    lines = math.ceil(sum(1 + label.count("\n") for label in labels) / _columns(labels))
    height = panel_height + LEGEND_LINE * (lines + 1)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _legend(figure: Figure, labels: Sequence[str]) -> None:
    figure.legend(
        loc="outside upper center",
        ncols=_columns(labels),
        frameon=False,
        handlelength=3,
        columnspacing=1.2,
    )


def step_figure(groups: Sequence[Group]) -> Figure | None:
    """A bar for each group, in the parts of a step; None where no time was measured."""
    bars = [(group.title, parts) for group in groups if (parts := _parts(group)) is not None]
    if not bars:
        return None
    labels = [textwrap.fill(label, BAR_LETTERS) for label, _ in bars]
    most_lines = max(1 + label.count("\n") for label in labels)
    figure, panel = _figure(list(PART_STYLES), 0.55 + len(bars) * (0.14 + 0.12 * most_lines))
    for row, (_, parts) in enumerate(bars):
        left = 0.0
        for part, style in PART_STYLES.items():
            panel.barh(
                row,
                parts[part],
                left=left,
                height=0.65,
                edgecolor="0.2",
                linewidth=0.4,
                facecolor=style["color"],
                hatch=style["hatch"],
                label=part.replace("_", " ") if row == 0 else None,
            )
            left += parts[part]
    panel.set_yticks(range(len(bars)), labels)
    panel.set_ylim(len(bars) - 0.5, -0.5)
    panel.set_xlabel("time of a step (ms)")
    panel.grid(axis="x", alpha=0.3, linewidth=0.4)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    _legend(figure, list(PART_STYLES))
    return figure


def _parts(group: Group) -> dict[str, float] | None:
    """Milliseconds of each part of a step and of what is left of the whole, mean over runs."""
    measured = [run.step_parts for run in group.counted if run.step_parts is not None]
    if not measured:
        return None
    mean = {
        name: 1e3 * statistics.fmean(parts.get(name, 0.0) for parts in measured)
        for name in ("total", *PARTS)
    }
    total = mean.pop("total")
    return mean | {"other": max(0.0, total - sum(mean.values()))}


def judged(metric: Metric, groups: Sequence[Group]) -> Quantity:
    """What is tested, on a log axis where a perplexity falls by more than a decade."""
    values = [
        point.test
        for group in groups
        for run in group.counted
        for point in run.points
        if point.test is not None
    ]
    log = not metric.higher_is_better and bool(values) and max(values) > 10 * min(values)
    return Quantity(f"{metric.label}, mean over nodes", lambda point: point.test, log)


def draw_all(groups: Sequence[Group], folder: Path, suffix: str) -> tuple[list[Path], list[str]]:
    """Every picture of one data set's runs into a folder that exists.

    Returns:
        The files written, and the names of the pictures that have nothing to show.
    """
    metrics = {group.metric: None for group in groups if group.metric is not None}
    with mpl.rc_context(STYLE):
        figures = {
            f"{metric.stem}_{name}": course_figure(groups, x, judged(metric, groups))
            for metric in metrics
            for name, x in AGAINST.items()
        }
        figures["consensus"] = course_figure(groups, EPOCHS, CONSENSUS)
        figures["step_time"] = step_figure(groups)
        written = []
        for name, figure in figures.items():
            if figure is not None:
                written.append(folder / f"{name}.{suffix}")
                figure.savefig(written[-1], dpi=300)
    return written, [name for name, figure in figures.items() if figure is None]
