"""The slow-network benchmark in tables and pictures: `slow_network_report.py FOLDER` makes them."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from pcode.tools.results_picture import COLOURS, DASHES, MARKERS, STYLE
from pcode.utils.tables import markdown
from pcode.utils.timing import PARTS
from peers import BASE, PEERS

TITLES = {"vgg11": "VGG-11 (9.23 M parameters)", "resnet20": "ResNet-20 (.27 M parameters)"}
SHOWN = tuple(part for part in PARTS if part != "data")
# PowerSGD needs its first steps whole.
WHOLE_STEPS = 2
WHOLE = {"power_sgd_1": "ddp", "power_sgd_4": "ddp"}
# What advise calls otherwise.
ADVISED_AS = {"ddp": "all-reduce"}


@dataclass(frozen=True)
class Figures:
    """What was measured of one scenario with one model.

    Attributes:
        name: of the scenario.
        steps: method -> a row for each round (see slow_network_rank.py); where there was no
            communication it has no time "alone".
        accuracy: method -> learning rate, bytes, and curve of test top-1.
        target: test top-1 in %.
        advice: what `python -m pcode.tools.advise` has written; None: it was not asked.
        is_unequal: whether one of the hosts has a network or a processor of its own.
    """

    name: str
    steps: dict[str, list[dict[str, Any]]]
    accuracy: dict[str, dict[str, Any]]
    target: float
    advice: dict[str, Any] | None
    is_unequal: bool

    def median(self, method: str, figure: str = "total") -> float:
        """Of a step: seconds, of the whole or of a part, or bytes that left a host."""
        return float(statistics.median(row[figure] for row in self.steps[method]))

    def ratios(self, method: str) -> list[float]:
        """A step's time in steps without communication, by rounds.

        Everyone waits for the slowest: where hosts are unequal, of its steps.
        """
        alone = "alone_slowest" if self.is_unequal else "alone"
        return [row["total"] / row[alone] for row in self.steps[method]]

    def advised(self, steps: Mapping[str, float]) -> str:
        """The method that advise names, and its time to the target beside the best method's.

        Args:
            steps: method -> how many it needs; others do not count.
        """
        if self.advice is None:
            return "-"
        title: str = self.advice["advice"]
        times = {
            ADVISED_AS.get(method, PEERS[method].title): needed * self.median(method)
            for method, needed in steps.items()
            if method in self.steps
        }
        return f"{title} ({times[title] / min(times.values()):.2f})" if title in times else title

    def predicted(self, method: str) -> float | None:
        """A step's seconds, where advise knows the method and it was measured."""
        if self.advice is None or method not in self.steps:
            return None
        steps = {each["title"]: each["step_seconds"] for each in self.advice["methods"]}
        return steps.get(PEERS[method].title)

    def reached(self, method: str) -> dict[str, float] | None:
        """The first evaluation that reached the target; None: there was none."""
        curve = self.accuracy.get(method, {"curve": []})["curve"]
        return next((point for point in curve if point["test_top1"] >= self.target), None)


def read(folder: Path) -> dict[str, list[Figures]]:
    """The figures of each model, by scenarios, slow links first."""
    found: dict[str, list[Figures]] = {}
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.json"))}
    every = [(path, json.loads(text)) for path, text in texts.items()]
    for path, kept in sorted(every, key=lambda each: each[1]["scenario"]["rate_mbit"] or math.inf):
        for arch, steps in kept["steps"].items():
            accuracy, scenario = kept["accuracy"].get(arch, {}), kept["scenario"]
            is_unequal = bool(scenario["ways_mbit"] or scenario["processors"])
            advice = kept["advice"].get(arch)
            figures = Figures(path.stem, steps, accuracy, kept["target"], advice, is_unequal)
            found.setdefault(arch, []).append(figures)
    return found


def _methods(scenarios: Sequence[Figures]) -> list[str]:
    """In the order of PEERS."""
    return [name for name in PEERS if any(name in each.steps for each in scenarios)]


def _table(head: str, rows: Sequence[list[str]]) -> Iterator[str]:
    yield from ("", head, "")
    yield from markdown(list(rows), {""})


def _steps(scenarios: Sequence[Figures]) -> Iterator[str]:
    """Time of a step in each scenario: quartiles in steps without communication."""
    rows = [["", "MB a step", *(each.name for each in scenarios)]]
    for method in _methods(scenarios):
        have = [each for each in scenarios if method in each.steps]
        sent = statistics.median(each.median(method, "link_bytes") for each in have)
        cells = [_step(each, method) if each in have else "-" for each in scenarios]
        rows.append([PEERS[method].title, f"{sent / 1e6:.2f}", *cells])
    yield from _table(
        "A step in steps without communication of the same round: median (quartiles); of that "
        "itself, seconds:",
        rows,
    )


def _step(figures: Figures, method: str) -> str:
    if method == BASE:
        return f"{figures.median(method):.3f} s"
    ratios = figures.ratios(method)
    if len(ratios) == 1:
        return f"{ratios[0]:.2f}"
    lower, middle, upper = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.2f} ({lower:.2f} to {upper:.2f})"


def _steps_needed(scenarios: Sequence[Figures]) -> dict[str, float]:
    """Method -> steps to the target; they do not depend on the network."""
    return {
        method: point["step"]
        for method in _methods(scenarios)
        for each in scenarios
        if (point := each.reached(method)) is not None
    }


def _to_target(scenarios: Sequence[Figures]) -> Iterator[str]:
    """Time to the target: measured, or else steps x time."""
    needed = _steps_needed(scenarios)
    rows = [["", "steps", *(each.name for each in scenarios)]]
    for method in _methods(scenarios):
        if any(method in each.accuracy for each in scenarios):
            steps = needed.get(method)
            times = [_seconds_to_target(each, method, steps) for each in scenarios]
            rows.append([PEERS[method].title, "-" if steps is None else f"{steps:.0f}", *times])
    if len(rows) > 1:
        yield from _table(
            f"Seconds to {scenarios[0].target:g} % test top-1 on digits (mean over the nodes' "
            "models); ~: steps x time of a step, with PowerSGD's first two at DDP's:",
            rows,
        )


def _seconds_to_target(figures: Figures, method: str, steps: float | None) -> str:
    point = figures.reached(method)
    if point is not None:
        return f"{point['seconds']:.0f}"
    if method in figures.accuracy:
        last = figures.accuracy[method]["curve"][-1]
        return f"{last['test_top1']:.1f} % after {last['seconds']:.0f}"
    whole = WHOLE.get(method)
    if steps is None or any(each not in figures.steps for each in (method, whole or method)):
        return "-"
    seconds = steps * figures.median(method)
    if whole is not None:
        seconds += WHOLE_STEPS * (figures.median(whole) - figures.median(method))
    return f"~{seconds:.0f}"


def _advice(scenarios: Sequence[Figures]) -> Iterator[str]:
    """Steps as predicted and as measured, and what was advised."""
    rows, errors = [["", *(each.name for each in scenarios)]], []
    for method in _methods(scenarios):
        cells = []
        for each in scenarios:
            predicted = each.predicted(method)
            if predicted is None:
                cells.append("-")
                continue
            measured = each.median(method)
            errors.append(predicted / measured - 1)
            cells.append(f"{predicted:.2f} / {measured:.2f} ({100 * errors[-1]:+.0f} %)")
        if set(cells) != {"-"}:
            rows.append([PEERS[method].title, *cells])
    if not errors:
        return
    sizes = [abs(error) for error in errors]
    needed = _steps_needed(scenarios)
    advised = ["advised (its steps x time / the least)"]
    advised += [each.advised(needed) for each in scenarios]
    yield from _table(
        f"A step as advise predicts it / as measured, s (error): {len(errors)} cells, median error "
        f"{100 * statistics.median(sizes):.0f} %, worst {100 * max(sizes):.0f} %:",
        [*rows, advised],
    )


def _parts(figures: Figures) -> Iterator[str]:
    """Where the time of a step goes."""
    rows = [["", *(part.replace("_", " ") for part in SHOWN)]]
    for method in _methods([figures]):
        times = (f"{1e3 * figures.median(method, part):.0f}" for part in SHOWN)
        rows.append([PEERS[method].title, *times])
    yield from _table(f"Parts of a step, ms, {figures.name} (DDP's all-reduce is backward):", rows)


def _busy(figures: Figures) -> Iterator[str]:
    """What each host does itself in a step."""
    num_nodes = len(figures.steps[BASE][0]["busy"])
    rows = [["", "step", *(f"host-{1 + rank}" for rank in range(num_nodes))]]
    for method in _methods([figures]):
        by_round = zip(*(row["busy"] for row in figures.steps[method]), strict=True)
        times = [f"{1e3 * statistics.median(values):.0f}" for values in by_round]
        if PEERS[method].is_ddp:  # it waits within backward
            times = ["-"] * num_nodes
        rows.append([PEERS[method].title, f"{1e3 * figures.median(method):.0f}", *times])
    yield from _table(f"A step, and what of it a host does not wait, ms, {figures.name}:", rows)


def report(folder: Path) -> str:
    """Make tables.md and the pictures of what is in the folder; the tables."""
    found = read(folder)
    lines = ["What it was measured on is in the JSON file of each scenario.", ""]
    for arch, scenarios in found.items():
        lines += [f"# {TITLES[arch]}", *_steps(scenarios), *_to_target(scenarios)]
        lines += _advice(scenarios)
        for figures in scenarios:
            lines += _parts(figures)
            lines += _busy(figures) if figures.is_unequal else ()
    text = "\n".join([*lines, ""])
    (folder / "tables.md").write_text(text, encoding="utf-8")
    _draw(found, folder)
    return text


def _draw(found: dict[str, list[Figures]], folder: Path) -> None:
    """ARCH-steps.png: time of a step in each scenario."""
    mpl.use("Agg")
    with mpl.rc_context(STYLE):
        for arch, scenarios in found.items():
            size = (1.5 + 1.3 * len(scenarios), 4.2)
            chart, axes = plt.subplots(figsize=size, layout="constrained")
            axes.set_title(TITLES[arch], fontsize=8)
            _draw_steps(axes, scenarios)
            chart.legend(loc="outside right center", frameon=False)
            chart.savefig(folder / f"{arch}-steps.png", dpi=200)
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


def _draw_steps(axes: Any, scenarios: Sequence[Figures]) -> None:
    for method in _methods(scenarios):
        if method != BASE:
            have = [at for at, each in enumerate(scenarios) if method in each.steps]
            ratios = [statistics.median(scenarios[at].ratios(method)) for at in have]
            axes.plot(have, ratios, **_style(method))
    names = [each.name.replace("-", "\n") for each in scenarios]
    axes.set_xticks(range(len(scenarios)), names)
    axes.set_yscale("log")
    axes.set_ylabel("step (steps without communication)")
    axes.grid(alpha=0.3, which="both")


if __name__ == "__main__":
    report(Path(sys.argv[1]))
