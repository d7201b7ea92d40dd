"""Training over slow networks: this project beside what else one would use, on real sockets.

    python benchmarks/slow_network.py FOLDER SCENARIO.yaml... [--accuracy METHOD...]

A scenario (`benchmarks/scenarios`) is four hosts on this machine, namespaces with a network between
them, one node on each, in a ring. Measured for VGG-11 (9.23 million parameters) and ResNet-20
(.27 million), on images of 3 x 32 x 32:

- the time of a step and of its parts, by turns with the same step without communication;
- of the methods after --accuracy, how the test accuracy on digits grows with time;
- what `python -m pcode.tools.advise` predicts and advises there.

The figures of a scenario are in FOLDER/SCENARIO.json; tables.md and the pictures beside it are of
all scenarios in FOLDER. What is there already, of a run that was interrupted or of other methods,
is not measured again.

The hosts share the machine's cores: whatever a method computes besides the gradient costs time, and
so does the network itself, whose packets these cores move.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from harness import keep
from pcode.launch.hostfile import read_hostfile
from pcode.launch.mpirun import Mpirun
from peers import BASE, PEERS
from slow_network_rank import Accuracy, Steps
from slow_network_report import report
from tests.support.hosts import Disturbance, Hosts, why_not

RANK = Path(__file__).with_name("slow_network_rank.py")
ROOT = RANK.parents[1]
EVALUATE_EVERY = 6  # steps; a quarter of an epoch
TARGET = 95.0
# Of each model: the learning rate with which DDP was the fastest to the target, of .0025, .005, .01
# and .02, and of .02, .05 and .1.
MODELS = {"vgg11": 0.01, "resnet20": 0.1}
METHODS = [name for name in PEERS if name not in (BASE, "sign_in_step")]
# Those for unequal data are measured where they are asked for.
FOR_UNEQUAL_DATA = (
    *("beer_sign", "motef_sign", "lead_qsgd_4", "qg", "d2", "gradient_tracking", "decentlam"),
    *("sgp", "relay"),
)
BY_DEFAULT = [name for name in METHODS if name not in FOR_UNEQUAL_DATA]


@dataclass(frozen=True)
class Scenario:
    """A network, and what else is not as it should be.

    Attributes:
        rate_mbit: of each host's link, in each direction; None: as fast as the machine.
        latency_ms, jitter_ms, loss_percent: of each way from host to host (see Disturbance).
        ways_mbit: rates of single ways, both directions, by "HOST HOST".
        processors: shares of a core that hosts have, by host; others take what there is.
        gradient_ms: steps wait so long, instead of computing gradients: the network's part alone,
            as on hosts with processors of their own. DDP cannot.
    """

    rate_mbit: float | None = None
    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    loss_percent: float = 0.0
    ways_mbit: dict[str, float] = field(default_factory=dict)
    processors: dict[str, float] = field(default_factory=dict)
    gradient_ms: float | None = None

    @contextmanager
    def hosts(self, num_hosts: int) -> Iterator[Hosts]:
        """As many hosts as that, for as long as the block lasts."""
        disturbance = None
        if self.latency_ms or self.jitter_ms or self.loss_percent:
            disturbance = Disturbance(self.latency_ms, self.jitter_ms, self.loss_percent / 100)
        with Hosts(num_hosts, self.rate_mbit, disturbance) as hosts:
            for ends, mbit in self.ways_mbit.items():
                one, other = ends.split()
                hosts.network.set_way(one, other, mbit)
            for name, share in self.processors.items():
                hosts.limit_processor(name, share)
            yield hosts


def run_on(hosts: Hosts, command: Sequence[str]) -> None:
    """Run a command on the first of the hosts, which may start ranks on all of them."""
    subprocess.run(
        hosts.command(hosts.names[0], command),
        check=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **hosts.variables},
    )


def measure(num_nodes: int, scenario: Scenario, options: Steps | Accuracy) -> dict[str, Any]:
    """What the ranks measured on the scenario's hosts, by methods."""
    with tempfile.TemporaryDirectory() as folder, scenario.hosts(num_nodes) as hosts:
        hostfile, output = Path(folder, "hosts"), Path(folder, "measured.json")
        hosts.write_hostfile(hostfile, 1)
        mpirun = Mpirun(
            [str(RANK), str(output), json.dumps(asdict(options))],
            num_nodes,
            read_hostfile(str(hostfile)),
            is_remote=True,
            mpi_env=f"PYTHONPATH={ROOT}",  # pcode need not be installed
        )
        run_on(hosts, mpirun.command())
        found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return found


def advise(num_nodes: int, scenario: Scenario, arch: str, batch_size: int) -> dict[str, Any]:
    """What the tool writes about the scenario's hosts."""
    with tempfile.TemporaryDirectory() as folder, scenario.hosts(num_nodes) as hosts:
        hostfile, output = Path(folder, "hosts"), Path(folder, "advice.json")
        hosts.write_hostfile(hostfile, 1)
        flags = {
            "hostfile": hostfile,
            "n_mpi_process": num_nodes,
            "arch": arch,
            "data": "synthetic",  # images of 3 x 32 x 32, ten classes
            "batch_size": batch_size,
            "output": output,
        }
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        run_on(hosts, [sys.executable, "-m", "pcode.tools.advise", *words])
        found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("scenarios", type=Path, nargs="+")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=16, help="of a node")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of a method in a round")
    parser.add_argument("--limit_seconds", type=float, default=240, help="of a method's accuracy")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=BY_DEFAULT)
    parser.add_argument("--accuracy", nargs="*", choices=METHODS, default=[])
    arguments = parser.parse_args()
    reason = why_not()
    if reason is not None:
        sys.exit(f"slow_network.py: no hosts can be made here: {reason}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for path in arguments.scenarios:
        scenario = Scenario(**yaml.safe_load(path.read_text(encoding="utf-8")) or {})
        output = arguments.folder / f"{path.stem}.json"
        settings = {
            "nodes": arguments.nodes,
            "batch_size": arguments.batch_size,
            "target": TARGET,
            "scenario": asdict(scenario),
        }
        figures = {**settings, "steps": {}, "accuracy": {}, "advice": {}}
        if output.exists():
            figures = json.loads(output.read_text(encoding="utf-8"))
            if other := [name for name, value in settings.items() if figures[name] != value]:
                sys.exit(f"slow_network.py: {output}: was measured with other {', '.join(other)}")
        # Where nothing computes gradients DDP sends none.
        methods = [
            name
            for name in arguments.methods
            if scenario.gradient_ms is None or not PEERS[name].is_ddp
        ]
        for arch in arguments.models:
            timed = Steps(
                arch,
                arguments.batch_size,
                methods,
                arguments.rounds,
                arguments.seconds,
                scenario.gradient_ms,
            )
            trained = Accuracy(
                arch,
                arguments.batch_size,
                arguments.accuracy,
                MODELS[arch],
                TARGET,
                EVALUATE_EVERY,
                arguments.limit_seconds,
            )
            for kind, options in (("steps", timed), ("accuracy", trained)):
                found = figures[kind].setdefault(arch, {})
                left = [name for name in options.methods if name not in found]
                if not left:
                    continue
                print(f"{path.stem}, {arch}: {kind} of {', '.join(left)}", flush=True)
                found |= measure(arguments.nodes, scenario, replace(options, methods=left))
                # What has been measured is not lost with what comes.
                keep(output, figures)
            # What it measures are gradients.
            if arch not in figures["advice"] and scenario.gradient_ms is None:
                print(f"{path.stem}, {arch}: advice", flush=True)
                figures["advice"][arch] = advise(
                    arguments.nodes, scenario, arch, arguments.batch_size
                )
                keep(output, figures)
    print(report(arguments.folder))


if __name__ == "__main__":
    main()
