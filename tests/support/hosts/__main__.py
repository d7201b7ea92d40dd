"""Run a command on the first of several hosts that are made on this machine for it.

python -m tests.support.hosts --hosts 4 --slots 2 --rate_mbit 100 --hostfile hosts.txt \\
    -- python run.py --n_mpi_process 8 --hostfile hosts.txt

A host is a set of namespaces (see `Hosts`); they go when the command ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pcode.tools.command import Parser, check_writable, tool
from pcode.utils.errors import UserError
from tests.support.hosts import Disturbance, Hosts


@tool("hosts")
def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    parser = Parser(prog="python -m tests.support.hosts", description=__doc__)
    parser.add_argument("--hosts", type=int, default=2, help="how many: host-1, host-2, ...")
    parser.add_argument("--slots", type=int, default=1, help="of each, in the hostfile")
    parser.add_argument("--rate_mbit", type=float, help="of each link, in Mbit/s")
    parser.add_argument("--latency_ms", type=float, default=0.0, help="between hosts, one way")
    parser.add_argument("--jitter_ms", type=float, default=0.0, help="by which it varies")
    parser.add_argument("--loss_percent", type=float, default=0.0, help="of the packets")
    parser.add_argument("--hostfile", type=Path, help="file to write the hosts into")
    parser.add_argument("command", nargs="+", help="after --: the command and its arguments")
    options = parser.parse_args(arguments)
    if options.slots < 1:
        raise UserError(f"--slots {options.slots}: at least 1 is needed")
    if options.rate_mbit is not None and not 0 < options.rate_mbit < float("inf"):
        raise UserError(f"--rate_mbit {options.rate_mbit}: must be above 0")
    if not 0 <= options.loss_percent < 100:
        raise UserError(f"--loss_percent {options.loss_percent}: must be at least 0 and below 100")
    try:
        disturbance = Disturbance(options.latency_ms, options.jitter_ms, options.loss_percent / 100)
    except UserError as error:
        raise UserError(f"--{error}") from error
    is_disturbed = disturbance != Disturbance()
    check_writable("hostfile", options.hostfile)
    program = shutil.which(options.command[0])
    if program is None:
        raise UserError(f"{options.command[0]}: no such program")
    with Hosts(options.hosts, options.rate_mbit, disturbance if is_disturbed else None) as hosts:
        if options.hostfile is not None:
            hosts.write_hostfile(options.hostfile, options.slots)
        command = hosts.command(hosts.names[0], [program, *options.command[1:]])
        # The command decides what a signal means. A terminal sends SIGINT to both.
        signal.signal(signal.SIGINT, lambda _number, _frame: None)
        with subprocess.Popen(command, env={**os.environ, **hosts.variables}) as process:
            signal.signal(signal.SIGTERM, lambda number, _frame: process.send_signal(number))
        status = process.returncode
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
