"""Pictures of runs for print: their courses with a band over seeds, and where a step's time goes.

Sized for a column of a paper (3.5 in). Colours are Okabe and Ito's, distinct for any kind of
sight, and no two curves share colour, dashes and marker, so that they also differ in grey.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatterMathtext, LogLocator, NullFormatter

from pcode.tools.command import as_it_stands
from pcode.tools.results_runs import DIVERGED, METRICS, Metric
from pcode.tools.results_table import groups_of, title
from pcode.utils.timing import PARTS

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (4, 1, 1, 1)), (0, (1.5, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MOST_MARKERS = 8  # of a curve
LEGEND_LETTERS, BAR_LETTERS = 54, 26  # of a line
MOST_LINES = 8  # of a label
DPI, MOST_PIXELS = 300, 32_000  # matplotlib draws no more than 65,535 in a column
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
    # Journals take none of the fonts that are the default (type 3), and text stays text.
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
    """The course of one or more runs, of which all may have diverged after the last x."""

    label: str
    values: pd.DataFrame  # a column for each run, indexed by x, where all of them have a value
    breaks_off: bool = False

    @property
    def mean(self) -> pd.Series[float]:
        return self.values.mean(axis=1)


def line_style(index: int) -> dict[str, Any]:
    """Colour, dashes and marker of the curve of that number; they repeat after 56 curves."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def draw_curve(panel: Axes, curve: Curve, index: int) -> None:
    """Draw the mean, a band where there are several runs, and a cross where they break off."""
    style, mean = line_style(index), curve.mean
    every = max(1, math.ceil(len(mean) / MOST_MARKERS))
    if len(mean) == 1:
        # A marker alone, above the lines.
        style |= {"linestyle": "", "zorder": 3}
    panel.plot(mean, label=curve.label, markevery=(index % every, every), **style)
    if len(curve.values.columns) > 1:
        # A standard deviation below and above the mean, below not past 0 where no run is.
        deviation, least = curve.values.std(axis=1), curve.values.min(axis=1)
        low = (mean - deviation).where((mean > deviation) | (least < 0), least)
        band = {"color": style["color"], "alpha": 0.2, "linewidth": 0}
        panel.fill_between(mean.index, low, mean + deviation, **band)
    if curve.breaks_off and len(mean):
        panel.plot(mean.tail(1), "x", color=style["color"], markersize=7)


class Quantity(NamedTuple):
    """A column of the course of a run, and how an axis shows it, which counts `unit` as 1."""

    label: str
    name: str
    log: bool = False
    unit: float = 1.0


EPOCHS = Quantity("epoch", "epoch")
MEGABYTES = Quantity("sent by a node (MB)", "bytes_sent", log=True, unit=1e6)
SECONDS = Quantity("training time (s)", "seconds")
CONSENSUS = Quantity("consensus distance", "consensus_distance", log=True)
AGAINST = {"epochs": EPOCHS, "bytes": MEGABYTES, "time": SECONDS}


def curve_of(group: pd.DataFrame, x: Quantity, y: Quantity) -> Curve:
    """Return the counted runs where all have both; on a log axis only what is above 0."""
    counted = group[group["is_counted"]]
    courses = []
    for course in counted["course"]:
        axes = pd.DataFrame({"x": course[x.name] / x.unit, "y": course[y.name] / y.unit}).dropna()
        for axis, quantity in (("x", x), ("y", y)):
            axes = axes[axes[axis] > 0] if quantity.log else axes
        # A run without any record, as one that was just started, takes no other off the picture.
        courses += [axes] if len(axes) else []
    values = pd.DataFrame()
    if courses:
        steps = pd.concat(courses, axis=1, join="inner", keys=range(len(courses)))
        values = steps.xs("y", axis=1, level=1)
        values = values.set_axis(steps.xs("x", axis=1, level=1).mean(axis=1), axis=0)
    breaks_off = bool((counted["state"] == DIVERGED).all())
    return Curve(_label(group, LEGEND_LETTERS), values, breaks_off)


def _label(group: pd.DataFrame, letters: int) -> str:
    """Return a group's title in lines of so many letters."""
    return as_it_stands(textwrap.fill(title(group), letters, max_lines=MOST_LINES))


def course_figure(runs: pd.DataFrame, x: Quantity, y: Quantity) -> Figure | None:
    """Draw a curve for each group into one panel; None where nothing was recorded of any."""
    curves = {index: curve_of(group, x, y) for index, group in enumerate(groups_of(runs))}
    curves = {index: curve for index, curve in curves.items() if len(curve.values)}
    if not curves:
        return None
    figure = Figure(layout="constrained")
    panel = figure.subplots()
    for index, curve in curves.items():
        draw_curve(panel, curve, index)
    panel.set_xlabel(x.label)
    panel.set_ylabel(y.label)
    panel.grid(alpha=0.3, linewidth=0.4)
    if x.log:
        panel.set_xscale("log")
        _label_decades(panel.xaxis)
    if y.log:
        panel.set_yscale("log")
        # It ends a decade above the curves that do not diverge.
        highest = [curve.mean.max() for curve in curves.values() if not curve.breaks_off]
        if highest and panel.get_ylim()[1] > 10 * max(highest):
            panel.set_ylim(top=10 * max(highest))
        _label_decades(panel.yaxis)
    return _finished(figure, [curve.label for curve in curves.values()])


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


def _finished(figure: Figure, labels: Sequence[str], panel_height: float = PANEL_HEIGHT) -> Figure:
    """Add a legend of these labels, and make the figure as high as the panel and it need."""
    longest = max(len(line) for label in labels for line in label.splitlines())
    columns = max(1, min(len(labels), int(WIDTH / (LETTER * longest + 0.5))))
    lines = math.ceil(sum(1 + label.count("\n") for label in labels) / columns)
    figure.set_size_inches(WIDTH, panel_height + LEGEND_LINE * (lines + 1))
    spacing = {"handlelength": 3.0, "columnspacing": 1.2}
    figure.legend(loc="outside upper center", ncols=columns, frameon=False, **spacing)
    figure.axes[0].spines[["top", "right"]].set_visible(False)
    return figure


def step_figure(runs: pd.DataFrame) -> Figure | None:
    """Draw a bar for each group, in the parts of a step; None where no time was measured."""
    labels, bars = [], []
    for group in groups_of(runs):
        if len(parts := _parts(group)):
            labels.append(_label(group, BAR_LETTERS))
            bars.append(parts)
    if not bars:
        return None
    figure = Figure(layout="constrained")
    panel = figure.subplots()
    lengths = pd.DataFrame(bars)
    left = pd.Series(0.0, lengths.index)
    for part, style in PART_STYLES.items():
        panel.barh(
            lengths.index,
            lengths[part],
            left=left,
            height=0.65,
            edgecolor="0.2",
            linewidth=0.4,
            facecolor=style["color"],
            hatch=style["hatch"],
            label=part.replace("_", " "),
        )
        left += lengths[part]
    panel.set_yticks(range(len(bars)), labels)
    panel.set_ylim(len(bars) - 0.5, -0.5)
    panel.set_xlabel("time of a step (ms)")
    panel.grid(axis="x", alpha=0.3, linewidth=0.4)
    panel.set_axisbelow(True)
    most_lines = max(1 + label.count("\n") for label in labels)
    height = 0.55 + len(bars) * (0.14 + 0.12 * most_lines)
    return _finished(figure, list(PART_STYLES), height)


def _parts(group: pd.DataFrame) -> pd.Series[float]:
    """Return ms of each part of a step and of what is left of the whole, mean over runs."""
    measured = [parts for parts in group.loc[group["is_counted"], "step_parts"] if parts]
    if not measured:
        return pd.Series(dtype=float)
    mean = 1e3 * pd.DataFrame(measured, columns=["total", *PARTS]).fillna(0).mean()
    total = mean.pop("total")
    mean["other"] = max(0.0, total - mean.sum())
    return mean


def judged(metric: Metric, runs: pd.DataFrame) -> Quantity:
    """Return what is tested, on a log axis where a perplexity falls by more than a decade."""
    courses = runs.loc[runs["is_counted"], "course"]
    tests = pd.concat([course["test"] for course in courses])
    log = not metric.task.higher_is_better and bool(tests.max() > 10 * tests.min())
    return Quantity(f"{metric.label}, mean over nodes", "test", log)


def draw_all(runs: pd.DataFrame, folder: Path, suffix: str) -> tuple[list[Path], list[str]]:
    """Write every picture of one data set's runs; return the files, and names of empty pictures."""
    metrics = [METRICS[name] for name in runs["metric"].dropna().unique()]
    with mpl.rc_context(STYLE):
        figures = {
            f"{metric.stem}_{name}": course_figure(runs, x, judged(metric, runs))
            for metric in metrics
            for name, x in AGAINST.items()
        }
        figures["consensus"] = course_figure(runs, EPOCHS, CONSENSUS)
        figures["step_time"] = step_figure(runs)
        drawn = {folder / f"{name}.{suffix}": each for name, each in figures.items() if each}
        for path, figure in drawn.items():
            figure.savefig(path, dpi=min(DPI, MOST_PIXELS / figure.get_figheight()))
    return list(drawn), [name for name, figure in figures.items() if figure is None]
