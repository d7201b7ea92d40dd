"""Which method suits a network: what a step will take with each, before any training.

python -m pcode.tools.advise --hostfile hosts --n_mpi_process 4 --arch vgg11 --batch_size 16
python -m pcode.tools.advise --rate_mbit 100 --latency_ms 1 --n_mpi_process 4 --arch vgg11

The first measures on the hosts, the second takes the network as given. Both take run.py's flags.
"""

import argparse
import dataclasses
import json
import math
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pcode.check import edges
from pcode.check.commands import run_mpiruns
from pcode.check.hosts import names_by_rank, place_ranks
from pcode.config import Config, parse
from pcode.config.parser import all_flags
from pcode.launch.environment import detect
from pcode.launch.mpirun import allow_open_files, go_to, with_variable
from pcode.main import for_ranks, mpirun_of, resolve
from pcode.tools.advise_measure import ERROR, MARK, Found, measure_here
from pcode.tools.advise_methods import METHODS, STEPS_WITHIN, Method, plan_alone, plans_of
from pcode.tools.advise_network import (
    Cost,
    Network,
    Prediction,
    given,
    measured,
    predict,
    sent_bytes,
)
from pcode.tools.advise_picture import draw
from pcode.tools.command import FAILED, FORMATS, Parser, check_writable, say, tool, write
from pcode.topology import Graph
from pcode.utils.devices import threads_per_node, use_memory_well
from pcode.utils.errors import RunError, UserError
from pcode.utils.options import option, options_of
from pcode.utils.tables import aligned

# After that mpirun is ended; ranks that wait for each other have --time_limit_seconds.
_RANKS_SECONDS = 3600.0


@dataclass(frozen=True)
class Options:
    """What is asked besides run.py's flags."""

    rate_mbit: float | None = option(
        None, "rate of each host's link, each direction; none: measured on the hosts", above=0
    )
    latency_ms: float = option(0.0, "of the links, one way; with --rate_mbit", minimum=0)
    loss_percent: float = option(
        0.0, "packets that are lost; with --rate_mbit", minimum=0, below=100
    )
    gradient_ms: float | None = option(
        None, "forward and backward; with --rate_mbit; none: measured in this process", above=0
    )
    picture: str | None = option(None, "file for a picture (.png, .pdf, .svg)")
    output: str | None = option(None, "file for the figures (JSON)")


@dataclass(frozen=True)
class Row:
    """A method and what is predicted of it."""

    method: Method
    cost: Cost
    gradient_seconds: float
    graph: Graph = field(repr=False)
    network: Network = field(repr=False)

    @cached_property
    def prediction(self) -> Prediction:
        return predict(self.cost, self.gradient_seconds, self.graph, self.network)

    def seconds_at(self, mbit: float) -> float:
        """Return the seconds of a step with links of that rate."""
        network = self.network.at_rate(1e6 * mbit)
        return dataclasses.replace(self, network=network).prediction.step_seconds

    @property
    def seconds_to_accuracy(self) -> float | None:
        steps = self.method.steps
        return None if steps is None else steps * self.prediction.step_seconds

    def figures(self) -> dict[str, Any]:
        """Return what is written."""
        return {
            **vars(self.method),
            "cost": vars(self.cost),
            "sent_bytes": sent_bytes(self.cost, self.graph),
            "step_seconds": self.prediction.step_seconds,
            **vars(self.prediction),
        }


def choose(rows: Sequence[Row]) -> Row:
    """Return the row to recommend, that with the least time to the accuracy: steps x step.

    Methods of which nobody knows how many steps they need are not recommended.
    """
    known = [row for row in rows if row.method.steps is not None]
    return min(known, key=lambda row: row.seconds_to_accuracy or 0.0)


def table(rows: Sequence[Row], alone_seconds: float) -> list[str]:
    """Return the methods in columns, the shortest step first.

    Args:
        alone_seconds: a step without communication.
    """
    head = "method|MB sent|step ms|x alone|gradient|pass|waiting|steps to 95 %|seconds|flags"
    body = []
    for row in sorted(rows, key=lambda row: row.prediction.step_seconds):
        part, seconds = row.prediction, row.seconds_to_accuracy
        parts = part.step_seconds, part.gradient_seconds, part.pass_seconds, part.waiting_seconds
        step, *shown = (f"{1e3 * each:,.4g}" for each in parts)
        sent = f"{sent_bytes(row.cost, row.graph) / 1e6:.3g}"
        times = f"{part.step_seconds / alone_seconds:.2f}"
        needed = ("-", "-") if seconds is None else (str(row.method.steps), f"{seconds:,.3g}")
        body.append([row.method.title, sent, step, times, *shown, *needed, row.method.command])
    return aligned([head.split("|"), *body], {"method", "flags"})


def advice(rows: Sequence[Row]) -> Iterator[str]:
    """Yield which method to take, and what else is to be known."""
    best = choose(rows)
    yield (
        f"Take {best.method.title}: run.py {best.method.command}. Its steps x step are "
        f"{best.seconds_to_accuracy:,.3g} s, the least; steps are known to within {STEPS_WITHIN}."
    )
    step = best.prediction.step_seconds
    unknown = [row for row in rows if row.method.steps is None]
    shortest = min(unknown, key=lambda row: row.prediction.step_seconds, default=best)
    if (times := step / shortest.prediction.step_seconds) > 1:
        yield (
            f"{shortest.method.title} has a step {times:.3g} times as short. It pays if it needs "
            f"fewer than {times:.3g} times as many steps, which is not known."
        )
    yield (
        "Local steps, low ranks and sparse messages need more steps than exact averages, how many "
        "depends on the model and its data: docs/slow-networks.md, where these figures are from."
    )


def _parse(arguments: Sequence[str]) -> tuple[Options, list[str]]:
    """Return the tool's own options, and run.py's arguments."""
    names = ", ".join(f"--{name}" for name in all_flags())
    epilog = textwrap.fill(f"Flags of run.py, see its --help: {names}", 100)
    settings = {"argument_default": argparse.SUPPRESS, "epilog": epilog}
    parser = Parser("python -m pcode.tools.advise", __doc__, **settings)
    flags = options_of(Options)
    for name, flag in flags.items():
        text = flag.help.replace("%", "%%")
        parser.add_argument(f"--{name}", metavar=flag.placeholder, help=text)
    found, of_run = parser.parse_known_args(arguments)
    values = {
        name: flags[name].accepted(flags[name].parse(text)) for name, text in vars(found).items()
    }
    options = Options(**values)
    for name in ("latency_ms", "loss_percent", "gradient_ms") if options.rate_mbit is None else ():
        if name in values:
            raise UserError(f"--{name}: needs --rate_mbit; without it everything is measured")
    check_writable("output", options.output)
    check_writable("picture", options.picture, FORMATS)
    # --work_dir is another directory.
    files = {
        name: os.path.abspath(values[name]) for name in ("output", "picture") if name in values
    }
    return dataclasses.replace(options, **files), of_run


def _configure(arguments: Sequence[str], *, by_hand: bool) -> Config:
    """Return the run's configuration."""
    if detect() is not None:
        raise UserError("it starts its ranks itself: without mpirun, torchrun or srun")
    parsed = parse(arguments)
    if parsed.dry_run or parsed.check:
        raise UserError("--dry_run, --check: are run.py's; nothing is trained here anyway")
    own = {name for method in METHODS for name in method.flags} - {"graph_topology"}
    own |= {"consensus_stepsize"}
    spellings = {each for name in own for each in (f"--{name}", *all_flags()[name].aliases)}
    # In the command: a --config may be that of a run.
    for flag in sorted(spellings & {argument.partition("=")[0] for argument in arguments}):
        raise UserError(f"{flag}: each method has its own, and all are gone through")
    for line in parsed.warnings:
        say(f"warning: {line}")
    launch = parsed.config.launch
    if launch.n_mpi_process < 2:
        raise UserError("--n_mpi_process 1: a node alone sends nothing; 2 or more")
    if launch.n_sub_process > 1:
        raise UserError(
            f"--n_sub_process {launch.n_sub_process}: what the processes of a node send each other "
            "is not predicted; --n_sub_process 1"
        )
    if by_hand:  # every node has a machine like this one
        threads = threads_per_node(launch.num_threads, 1)
        launch = dataclasses.replace(launch, num_threads=threads, hostfile=None)
    elif launch.backend == "sim":
        raise UserError("--backend sim: it has no network to measure; mpi or gloo, or --rate_mbit")
    return resolve(dataclasses.replace(parsed.config, launch=launch), parsed.given, None)


def _on_hosts(config: Config, arguments: Sequence[str]) -> Callable[[], Found]:
    """Return what lets the run's ranks measure, by paths of the directory where the user is.

    Raises:
        RunError: when called, if the ranks failed.
    """
    launch = config.launch
    hosts = names_by_rank(place_ranks(mpirun_of(launch, []).hosts, launch.num_processes))
    program = ["-m", "pcode.tools.advise_measure", ",".join(hosts)]
    mpirun = mpirun_of(launch, [*program, *for_ranks(arguments, launch.work_dir)])
    if not mpirun.is_remote:
        allow_open_files(mpirun.num_ranks)
    folder = str(Path(__file__).parents[2])  # as run.py, it lies there on every host
    paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
    # Before this process goes to --work_dir.
    command = with_variable(mpirun.command(), "PYTHONPATH", os.pathsep.join(paths))

    def measure() -> Found:
        (ended,) = run_mpiruns([command], _RANKS_SECONDS, say, here=not mpirun.is_remote)
        for line in ended.output.splitlines() if ended.status == 0 else ():
            if line.startswith(MARK):
                return Found.read(line.removeprefix(MARK))
        raise RunError(ended.reason(_RANKS_SECONDS).removeprefix(ERROR))

    return measure


def _network(options: Options, found: Found, num_nodes: int) -> Network:
    if options.rate_mbit is None:
        return measured(found.hosts, found.edges)
    latency_seconds, loss = options.latency_ms / 1e3, options.loss_percent / 100
    hosts = [str(node) for node in range(num_nodes)]
    return given(hosts, 1e6 * options.rate_mbit, latency_seconds, loss)


@tool("advise")
def main(arguments: Sequence[str]) -> int:
    """Measure or take what is given, predict and advise."""
    use_memory_well()
    options, of_run = _parse(arguments)
    by_hand = options.rate_mbit is not None
    config = _configure(of_run, by_hand=by_hand)
    measure = None if by_hand else _on_hosts(config, of_run)
    if config.launch.work_dir is not None:
        go_to(config.launch.work_dir)
    alone = plan_alone(config)
    plans, left_out = plans_of(alone, config)
    for reason in left_out:
        print(f"left out: {reason}", flush=True)
    try:
        found = measure() if measure else measure_here(alone, plans, options.gradient_ms)
    except RunError as error:
        say(f"{ERROR}{error}")
        return FAILED
    speed, graph, data = found.speed, alone.topology, config.data
    network = _network(options, found, graph.num_nodes)
    rows = [
        Row(method, found.costs[title], speed.gradient_seconds, plans[title].topology, network)
        for method in METHODS
        if (title := method.title) in plans
    ]
    best = choose(rows)
    print(
        f"{config.model.arch} on {data.data}, batch {data.batch_size}, {graph.num_nodes} nodes, "
        f"{graph.name}: forward and backward {1e3 * speed.gradient_seconds:.4g} ms, a local step "
        f"{1e3 * speed.local_seconds:.3g} ms"
    )
    if found.edges:
        print("", *edges.table(found.edges, found.hosts, best.cost.message_bytes), sep="\n")
    print("", *table(rows, speed.step_seconds), "", *advice(rows), sep="\n")
    link_mbit = network.wire_mbit if math.isfinite(network.wire_mbit) else None  # on one host
    content = {
        "options": dataclasses.asdict(options),
        "link_mbit": link_mbit,
        "speed": vars(speed),
        "edges": [vars(edge) for edge in found.edges],
        "methods": [row.figures() for row in rows],
        "advice": best.method.title,
    }
    write(options.output, json.dumps(content, indent=1) + "\n")
    if options.picture is not None:
        draw({row.method.title: row.seconds_at for row in rows}, link_mbit, Path(options.picture))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
