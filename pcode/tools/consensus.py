"""Gossip without training: how fast a compressor lets the nodes of a graph agree.

python -m pcode.tools.consensus --graph_topology ring,torus --n_mpi_process 16 --comm_op none,sign
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import sys
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pcode.compression import COMPRESSORS, Compressor
from pcode.config.fields import check_value, flag, flag_of, parse_value
from pcode.consensus import Measurement, measure
from pcode.errors import UserError
from pcode.layout import Layout
from pcode.registry import look_up
from pcode.tools.command import Parser, call
from pcode.topology import make_topology

TARGET_ERROR = 1e-3
PICTURES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Options:
    """What to measure; those that run.py has mean what they mean there."""

    graph_topology: tuple[str, ...] = flag(("ring",), "names or files of graphs")
    n_mpi_process: int = flag(16, "number of nodes", minimum=2, maximum=4096)
    comm_op: tuple[str, ...] = flag(("none", "sign"), "compressors")
    compress_ratio: float = flag(0.9, "share that is dropped")
    quantize_level: int = flag(8, "bits of a magnitude")
    is_biased: bool = flag(True, "biased form of the compressor")
    consensus_stepsize: float | Literal["auto"] | None = flag(
        "auto", "gamma; none: by compressor; auto: by a short search"
    )
    entries: tuple[int, ...] = flag((1000,), "size of each tensor of a node's vector", minimum=1)
    rounds: int = flag(1000, "rounds of gossip", minimum=1)
    manual_seed: int = flag(6, "the one seed", minimum=0)
    start: str = flag(
        "random",
        "random: N(0, 1); slowest: along the eigenvector of W's second largest eigenvalue",
        choices=("random", "slowest"),
    )
    picture: str | None = flag(None, "file for a picture (.png, .pdf, .svg)")
    output: str | None = flag(None, "file for the figures (JSON)")


def table(measurements: Sequence[Measurement]) -> list[str]:
    """A Markdown table; decay is what a round takes off the error, measured and predicted."""
    columns = (
        "graph|n|gap|compressor|delta|gamma|bytes a message|decay a round|gamma (1 - lambda_2)"
        f"|rounds to {TARGET_ERROR:g}|kB sent by a node"
    )
    lines = [f"| {columns.replace('|', ' | ')} |", "|---|--:|--:|---|" + "--:|" * 7]
    for each in measurements:
        decay, rounds = each.course.decay(), each.course.rounds_to(TARGET_ERROR)
        reached = f"error {each.course.errors[-1]:.2g}"
        ending = [reached, "-"]
        if each.course.diverged:
            ending = ["diverges", "-"]
        elif rounds is not None:
            ending = [f"{rounds:,}", f"{rounds * each.round_bytes / 1e3:,.4g}"]
        cells = [
            each.graph,
            f"{each.num_nodes:,}",
            f"{each.gap:.3g}",
            each.compressor,
            f"{each.delta:.3g}",
            f"{each.gamma:.3g}",
            f"{each.message_bytes:,}",
            "-" if decay is None else f"{decay:.3g}",
            f"{each.predicted_decay:.3g}",
            *ending,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _parse(arguments: Sequence[str]) -> Options:
    parser = Parser(
        prog="python -m pcode.tools.consensus",
        description=(__doc__ or "").split("\n", maxsplit=1)[0],
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    fields = {field.name: field for field in dataclasses.fields(Options)}
    for name, field in fields.items():
        default = field.default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        help_text = f"{flag_of(field).help} [{shown}]".replace("%", "%%")
        parser.add_argument(f"--{name}", metavar=name.rsplit("_", 1)[-1].upper(), help=help_text)
    kinds = typing.get_type_hints(Options)
    values = {
        name: parse_value(name, kinds[name], text)
        for name, text in vars(parser.parse_args(arguments)).items()
    }
    for name, value in values.items():
        check_value(fields[name], value)
    return Options(**values)


def _check_files(options: Options) -> None:
    for name, path in (("picture", options.picture), ("output", options.output)):
        if path is None:
            continue
        parent = Path(path).parent
        if not parent.is_dir() or not os.access(parent, os.W_OK) or Path(path).is_dir():
            raise UserError(f"--{name} {path}: cannot write there")
    if options.picture is not None:
        if Path(options.picture).suffix not in PICTURES:
            raise UserError(f"--picture {options.picture}: must end in {', '.join(PICTURES)}")
        if importlib.util.find_spec("matplotlib") is None:
            raise UserError(
                f"--picture {options.picture}: needs matplotlib; pip install matplotlib"
            )


def _compressor(name: str, options: Options) -> Compressor:
    kind = look_up("comm_op", name, COMPRESSORS)
    return kind(**{option: getattr(options, option) for option in kind.flags})


def _gamma(compressor: Compressor, given: float | Literal["auto"] | None) -> float | None:
    """The gamma asked for, or None for a search."""
    if given == "auto":
        return None
    gamma = compressor.default_consensus_stepsize if given is None else given
    if not 0 < gamma <= 1:
        raise UserError(f"--consensus_stepsize {gamma:g}: must be above 0 and at most 1")
    return gamma


def _run(arguments: Sequence[str]) -> None:
    options = _parse(arguments)
    _check_files(options)
    topologies = [make_topology(name, options.n_mpi_process) for name in options.graph_topology]
    compressors = {name: _compressor(name, options) for name in options.comm_op}
    gammas = {
        name: _gamma(compressor, options.consensus_stepsize)
        for name, compressor in compressors.items()
    }
    layout = Layout.of_sizes(options.entries)
    measurements = [
        measure(
            topology,
            name,
            compressor,
            layout,
            rounds=options.rounds,
            gamma=gammas[name],
            start=options.start,
            seed=options.manual_seed,
        )
        for topology in topologies
        for name, compressor in compressors.items()
    ]
    print(*table(measurements), sep="\n")
    if options.output is not None:
        content = {
            "options": dataclasses.asdict(options),
            "measurements": [each.figures() for each in measurements],
        }
        Path(options.output).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if options.picture is not None:
        # Only pictures need matplotlib, which a training machine may not have.
        picture = importlib.import_module("pcode.tools.consensus_picture")
        picture.draw(measurements, Path(options.picture))


def main(arguments: Sequence[str]) -> int:
    """Measure what the flags ask for; 0, or 2 where they cannot be followed."""
    return call("consensus", _run, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
