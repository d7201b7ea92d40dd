"""The picture of advise.py: the time of a step with each method against the rate of the links."""

from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from pcode.tools.results_picture import DPI, STYLE, line_style

_SLOWEST_MBIT, _FASTEST_MBIT, _NUM_RATES = 1.0, 1e4, 241
_SIZE = 6.5, 3.6  # inches, with the legend beside the panel
_MARK_EVERY = 60

# Step seconds with links of so many Mbit/s.
Curve = Callable[[float], float]


def draw(curves: Mapping[str, Curve], own_mbit: float | None, path: Path) -> None:
    """Draw a curve for each method, crosses where another one becomes the fastest, and a line.

    Args:
        own_mbit: the rate of the user's links, where the line is; None: there are none.
    """
    rates = np.geomspace(_SLOWEST_MBIT, _FASTEST_MBIT, _NUM_RATES)
    seconds = np.array([[curve(float(rate)) for rate in rates] for curve in curves.values()])
    with mpl.rc_context(STYLE):
        figure = Figure(_SIZE, layout="constrained")
        panel = figure.subplots()
        for index, (title, times) in enumerate(zip(curves, seconds, strict=True)):
            every = (7 * index % _MARK_EVERY, _MARK_EVERY)
            panel.plot(rates, times, label=title, markevery=every, **line_style(index))
        fastest = seconds.argmin(axis=0)
        changes = np.flatnonzero(np.diff(fastest)) + 1
        panel.plot(
            rates[changes],
            seconds.min(axis=0)[changes],
            "x",
            color="0.1",
            markersize=6,
            zorder=4,
            label="another is the fastest",
        )
        if own_mbit is not None:
            panel.axvline(own_mbit, color="0.4", linewidth=0.8, linestyle=":", label="these links")
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlim(rates[0], rates[-1])
        panel.set_xlabel("rate of the links (Mbit/s)")
        panel.set_ylabel("time of a step (s)")
        panel.grid(alpha=0.3, linewidth=0.4)
        panel.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right center", frameon=False, handlelength=3.0)
        figure.savefig(path, dpi=DPI)
