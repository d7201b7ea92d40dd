"""Training over slow networks: CHOCO beside what else one would use, on real sockets.

    python benchmarks/slow_network.py [--output FILE.json] [--markdown FILE.md] [--pictures FOLDER]

Four hosts on this machine (network namespaces with links of 10, 100 and 1000 Mbit/s, and as fast
as the machine goes), one node on each, in a ring. Measured for VGG-11 (9.23 million parameters)
and ResNet-20 (.27 million), on images of 3 x 32 x 32:

- the time of a step and of its parts, by turns with the same step without communication;
- at one rate, how the test accuracy on digits grows with time.

What is in FILE.json already, of a run that was interrupted, is not measured again.

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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import keep, machine
from pcode.launch.hostfile import read_hostfile
from pcode.launch.mpirun import Mpirun
from peers import PEERS
from slow_network_rank import BASE, Accuracy, Steps
from slow_network_report import Figures, draw, markdown, read
from tests.support.hosts import Hosts, why_not

RANK = Path(__file__).with_name("slow_network_rank.py")
RATES: tuple[float | None, ...] = (10, 100, 1000, None)
ACCURACY_RATE = 100.0
EVALUATE_EVERY = 6  # steps; a quarter of an epoch
TARGET = 95.0
# Of each model: the learning rate with which DDP was the fastest to the target, of .0025, .005, .01
# and .02, and of .02, .05 and .1.
MODELS = {"vgg11": 0.01, "resnet20": 0.1}
METHODS = [name for name in PEERS if name not in (BASE, "sign_in_step")]
# A method that takes longer to the target than this is given up.
LIMIT_SECONDS = 240.0


def measure(
    num_nodes: int, rate_mbit: float | None, options: Steps | Accuracy, folder: Path
) -> dict[str, Any]:
    """What the ranks measured on hosts whose links have this rate."""
    hostfile, output = folder / "hosts", folder / "measured.json"
    with Hosts(num_nodes, rate_mbit) as hosts:
        hosts.write_hostfile(hostfile, 1)
        program = [str(RANK), str(output), json.dumps(asdict(options))]
        command = Mpirun(program, num_nodes, read_hostfile(str(hostfile)), is_remote=True).command()
        subprocess.run(
            hosts.command(hosts.names[0], command),
            check=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **hosts.variables},
        )
    found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=16, help="of a node")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4, help="of a method in a round")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--rates", nargs="+", type=float, help="of links, in Mbit/s; 0: no limit")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder")
    arguments = parser.parse_args()
    reason = why_not()
    if reason is not None:
        sys.exit(f"slow_network.py: no hosts can be made here: {reason}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rates = RATES if arguments.rates is None else [rate or None for rate in arguments.rates]
    figures = Figures(arguments.nodes, arguments.batch_size, TARGET, ACCURACY_RATE, {}, {})
    if arguments.output is not None and arguments.output.exists():
        figures, _ = read(arguments.output)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for arch in arguments.models:
            for rate in rates:
                name = "no limit" if rate is None else f"{rate:g}"
                if name in figures.steps.get(arch, {}):
                    continue
                steps = Steps(
                    arch,
                    arguments.batch_size,
                    arguments.methods,
                    arguments.rounds,
                    arguments.seconds,
                )
                print(f"{arch}, {name} Mbit/s: steps", flush=True)
                rows = measure(arguments.nodes, rate, steps, folder)
                figures.steps.setdefault(arch, {})[name] = rows
                # What has been measured is not lost with what comes.
                keep(arguments.output, asdict(figures))
            if arch in figures.accuracy:
                continue
            print(f"{arch}, {ACCURACY_RATE:g} Mbit/s: accuracy", flush=True)
            lr = dict.fromkeys(arguments.methods, MODELS[arch])
            accuracy = Accuracy(
                arch, arguments.batch_size, lr, TARGET, EVALUATE_EVERY, LIMIT_SECONDS
            )
            figures.accuracy[arch] = measure(arguments.nodes, ACCURACY_RATE, accuracy, folder)
            keep(arguments.output, asdict(figures))
    text = markdown(figures, machine())
    print(text)
    if arguments.markdown is not None:
        arguments.markdown.write_text(text, encoding="utf-8")
    if arguments.pictures is not None:
        draw(figures, arguments.pictures)


if __name__ == "__main__":
    main()
