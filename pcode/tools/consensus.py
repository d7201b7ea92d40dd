"""Gossip without training: how fast a compressor lets the nodes of a graph agree.

python -m pcode.tools.consensus --graph_topology ring,torus --n_mpi_process 16 --comm_op none,sign
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pcode.compression import COMPRESSORS, Compressor
from pcode.consensus import Measurement, Setting, measure, search_gamma, setting_of
from pcode.tools.command import FORMATS, Parser, as_it_stands, check_writable, say, tool, write
from pcode.topology import Topology, make_topology
from pcode.utils.errors import UserError
from pcode.utils.layout import Layout
from pcode.utils.options import look_up, option, options_of, taken_by
from pcode.utils.tables import markdown

TARGET_ERROR = 1e-3
# Of memory an entry, on each node, with what a round computes in between.
ENTRY_BYTES = 56
MAX_GIB = 4
LINE_STYLES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (4, 1, 1, 1)), (0, (2, 1)))
LOWEST_ERROR, HIGHEST_ERROR = 1e-6, 2.0


def draw_course(panel: Axes, measurement: Measurement, *, unit: float = 1.0, **line: Any) -> None:
    """Draw one curve into a panel; a round counts `unit` on the x axis (1, or its bytes)."""
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
    compressors = list(dict.fromkeys(each.compressor for each in measurements))
    graphs = list(dict.fromkeys(each.graph for each in measurements))
    colours = {name: f"C{index}" for index, name in enumerate(compressors)}
    styles = {name: LINE_STYLES[index % len(LINE_STYLES)] for index, name in enumerate(graphs)}
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    by_round, by_bytes = figure.subplots(1, 2, sharey=True)
    for each in measurements:
        line = {"color": colours[each.compressor], "linestyle": styles[each.graph]}
        draw_course(by_round, each, **line)
        draw_course(by_bytes, each, unit=each.round_bytes / 1e3, **line)
    for panel in (by_round, by_bytes):
        finish_panel(panel)
    # Compressors differ by orders of magnitude in bytes, and all start at 0.
    fewest = min((each.round_bytes for each in measurements), default=1e3)
    by_bytes.set_xscale("symlog", linthresh=fewest / 1e3)
    by_round.set_xlabel("round")
    by_bytes.set_xlabel("sent by one node (kB)")
    by_round.set_ylabel(r"$\|X-\bar{X}\|_F$ relative to the start")
    handles = [Line2D([], [], color=colours[name], label=name) for name in compressors]
    for name in graphs if len(graphs) > 1 else ():
        label = as_it_stands(name)
        handles.append(Line2D([], [], color="0.3", linestyle=styles[name], label=label))
    figure.legend(handles=handles, loc="outside upper center", ncols=6, frameon=False)
    figure.savefig(path, dpi=150)


@dataclass(frozen=True)
class Options:
    """What to measure, besides the compressors' options, which mean what they mean in run.py."""

    graph_topology: tuple[str, ...] = option(("ring",), "names or files of graphs")
    n_mpi_process: int = option(16, "number of nodes", minimum=2, maximum=4096)
    comm_op: tuple[str, ...] = option(("none", "sign"), "compressors")
    consensus_stepsize: float | Literal["auto"] | None = option(
        "auto", "gamma; none: by compressor; auto: by a short search", above=0, maximum=1
    )
    entries: tuple[int, ...] = option((1000,), "size of each tensor of a node's vector", minimum=1)
    rounds: int = option(1000, "rounds of gossip", minimum=1)
    manual_seed: int = option(6, "the one seed", minimum=0)
    start: str = option(
        "random",
        "random: N(0, 1); slowest: along the eigenvector of W's second largest eigenvalue",
        choices=("random", "slowest"),
    )
    picture: str | None = option(None, "file for a picture (.png, .pdf, .svg)")
    output: str | None = option(None, "file for the figures (JSON)")


def table(found: Sequence[Setting]) -> list[str]:
    """Write a Markdown table; decay is what a round takes off the error, measured and predicted.

    For a setting without a measurement there is no gamma.
    """
    head = (
        "graph|n|gap|compressor|delta|bytes a message|gamma|decay a round|gamma (1 - lambda_2)"
        f"|rounds to {TARGET_ERROR:g}|kB sent by a node"
    )
    rows = [head.split("|")]
    for each in found:
        known = [each.graph, f"{each.num_nodes:,}", f"{each.gap:.3g}", each.compressor]
        known += [f"{each.delta:.3g}", f"{each.message_bytes:,}"]
        none = ["no gamma found", *"----"]
        rows.append(known + (_measured(each) if isinstance(each, Measurement) else none))
    return markdown(rows, {"graph", "compressor"})


def _measured(measurement: Measurement) -> list[str]:
    course = measurement.course
    decay, rounds = course.decay(), course.rounds_to(TARGET_ERROR)
    ending = [f"error {course.errors[-1]:.2g}", "-"]
    if course.diverged:
        ending = ["diverges", "-"]
    elif rounds is not None:
        ending = [f"{rounds:,}", f"{rounds * measurement.round_bytes / 1e3:,.4g}"]
    decays = "-" if decay is None else f"{decay:.3g}", f"{measurement.predicted_decay:.3g}"
    return [f"{measurement.gamma:.3g}", *decays, *ending]


def _parse(arguments: Sequence[str]) -> tuple[Options, dict[str, Any]]:
    """Return the options, and those of compressors that are given."""
    parser = Parser("python -m pcode.tools.consensus", __doc__, argument_default=argparse.SUPPRESS)
    own = options_of(Options)
    flags = dict(chain(*(options_of(kind).items() for kind in (*COMPRESSORS.values(), Options))))
    for name, flag in flags.items():
        text = flag.help.replace("%", "%%")
        parser.add_argument(f"--{name}", metavar=flag.placeholder, help=text)
    given = vars(parser.parse_args(arguments))
    values = {name: flags[name].accepted(flags[name].parse(text)) for name, text in given.items()}
    options = Options(**{name: value for name, value in values.items() if name in own})
    check_writable("output", options.output)
    check_writable("picture", options.picture, FORMATS)
    n, num_entries = options.n_mpi_process, sum(options.entries)
    gib = ENTRY_BYTES * n * num_entries / (1 << 30)
    if gib > MAX_GIB:
        raise UserError(
            f"--n_mpi_process {n} --entries: {num_entries:,} entries on every node take some "
            f"{gib:,.0f} GiB; at most {MAX_GIB} will do"
        )
    return options, {name: value for name, value in values.items() if name not in own}


def _warn_of_unused(given: Iterable[str], taken: Collection[str]) -> None:
    if unused := [f"--{name}" for name in given if name not in taken]:
        words = f"{', '.join(unused)}: no compressor in --comm_op takes it"
        say(f"consensus: warning: {words}")


def _cell(topology: Topology, name: str, compressor: Compressor, options: Options) -> Setting:
    """Measure, after a search for gamma that prints its curve; return the setting if it fails."""
    layout, seed = Layout.of_sizes(options.entries), options.manual_seed
    gamma = options.consensus_stepsize
    if gamma is None:
        gamma = compressor.default_consensus_stepsize
    elif gamma == "auto":
        setting = setting_of(topology, name, compressor, layout)
        print(f"{setting.graph}, {setting.compressor}")
        try:
            search = search_gamma(topology, compressor, layout, seed)
        except UserError as error:
            print(error, end="\n\n", flush=True)
            return setting
        print(*search.lines(), sep="\n", end="\n\n", flush=True)
        gamma = search.best
    played: dict[str, Any] = {"rounds": options.rounds, "start": options.start, "seed": seed}
    return measure(topology, name, compressor, layout, gamma=gamma, **played)


@tool("consensus")
def main(arguments: Sequence[str]) -> None:
    """Measure what the flags ask for."""
    options, given = _parse(arguments)
    topologies = [
        make_topology(name, options.n_mpi_process, options.manual_seed)
        for name in options.graph_topology
    ]
    kinds = {name: look_up("comm_op", name, COMPRESSORS) for name in options.comm_op}
    compressors = {name: kind(**taken_by(kind, given)) for name, kind in kinds.items()}
    taken = dict(chain(*(each.options.items() for each in compressors.values())))
    _warn_of_unused(given, taken)
    found = [
        _cell(topology, name, compressor, options)
        for topology in topologies
        for name, compressor in compressors.items()
    ]
    print(*table(found), sep="\n")
    measurements = [each for each in found if isinstance(each, Measurement)]
    others = [dataclasses.asdict(each) for each in found if not isinstance(each, Measurement)]
    content = {
        "options": dataclasses.asdict(options) | taken,
        "measurements": [each.figures() for each in measurements],
        "without_gamma": others,
    }
    write(options.output, json.dumps(content, indent=1) + "\n")
    if options.picture is not None:
        draw(measurements, Path(options.picture))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
