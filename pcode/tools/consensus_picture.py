"""Pictures of gossip: the error against rounds and against bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pcode.consensus import Measurement

LINE_STYLES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (4, 1, 1, 1)), (0, (2, 1)))
LOWEST_ERROR, HIGHEST_ERROR = 1e-6, 2.0


def draw_course(panel: Axes, measurement: Measurement, *, unit: float = 1.0, **line: Any) -> None:
    """Draw one curve into a panel.

    Args:
        unit: what a round counts on the x axis (1, or the bytes of a round).
    """
    course = measurement.course
    panel.plot([unit * rounds for rounds in course.rounds], course.errors, **line)


def finish_panel(panel: Axes, lowest: float = LOWEST_ERROR, highest: float = HIGHEST_ERROR) -> None:
    """Set scales and grid of an error panel, down to `lowest` or where rounding takes over."""
    panel.set_yscale("log")
    panel.set_ylim(max(lowest, LOWEST_ERROR), highest)
    panel.set_xlim(left=0)
    panel.grid(alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def draw(measurements: Sequence[Measurement], path: Path) -> None:
    """Draw two panels, rounds and bytes: compressors by colour, graphs by dashes."""
    compressors = list(dict.fromkeys(each.setting.compressor for each in measurements))
    graphs = list(dict.fromkeys(each.setting.graph for each in measurements))
    colours = {name: f"C{index}" for index, name in enumerate(compressors)}
    styles = {name: LINE_STYLES[index % len(LINE_STYLES)] for index, name in enumerate(graphs)}
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    by_round, by_bytes = figure.subplots(1, 2, sharey=True)
    for each in measurements:
        line: dict[str, Any] = {
            "color": colours[each.setting.compressor],
            "linestyle": styles[each.setting.graph],
        }
        draw_course(by_round, each, **line)
        draw_course(by_bytes, each, unit=each.setting.round_bytes / 1e3, **line)
    for panel in (by_round, by_bytes):
        finish_panel(panel)
    # Compressors differ by orders of magnitude in bytes, and all start at 0.
    fewest = min((each.setting.round_bytes for each in measurements), default=1e3)
    by_bytes.set_xscale("symlog", linthresh=fewest / 1e3)
    by_round.set_xlabel("round")
    by_bytes.set_xlabel("sent by one node (kB)")
    by_round.set_ylabel(r"$\|X-\bar{X}\|_F$ relative to the start")
    handles = [Line2D([], [], color=colours[name], label=name) for name in compressors]
    if len(graphs) > 1:
        handles += [
            Line2D([], [], color="0.3", linestyle=styles[name], label=name) for name in graphs
        ]
    figure.legend(handles=handles, loc="outside upper center", ncols=6, frameon=False)
    figure.savefig(path, dpi=150)
