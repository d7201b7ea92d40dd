"""From the command line to a run: check, then describe, launch, or be a node."""

from __future__ import annotations

import dataclasses
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from pcode.communication import DistributedCommunicator, Simulation
from pcode.config import Config, parse
from pcode.errors import CommunicationError, DivergenceError, UserError
from pcode.exit_status import DIVERGED, INTERRUPTED, USER_ERROR
from pcode.launch import (
    RankEnvironment,
    check_ranks,
    detect,
    launch,
    mpirun_command,
    threads_per_node,
)
from pcode.launch.connect import abort, connect, disconnect
from pcode.memory import use_memory_well
from pcode.training.describe import describe, headline
from pcode.training.loop import LAUNCHER_VARIABLE, run_node
from pcode.training.plan import Plan, make_plan


def main(arguments: Sequence[str]) -> int:
    """Do what the flags ask for; the exit status.

    0: done; those of pcode.exit_status; 143: SIGTERM; anything else: a node failed.
    """
    try:
        return _main(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED


def _main(arguments: Sequence[str]) -> int:
    use_memory_well()
    try:
        place = detect()
        parsed = parse(arguments)
        config = _resolve(parsed.config, parsed.given, place)
        command = _command(config, arguments) if place is None else None
        plan = make_plan(config)
    except UserError as error:
        # Every rank finds the same error: one of them reports it.
        if place is None or place.rank == 0:
            print(f"run.py: error: {error}", file=sys.stderr)
        return USER_ERROR
    first = place is None or place.rank == 0
    if first and LAUNCHER_VARIABLE not in os.environ:  # what the launcher has said is said
        name = plan.config.learning.optimizer
        notices = [*parsed.warnings, *(f"--optimizer {name}: {doubt}" for doubt in plan.doubts)]
        if parsed.config.launch.on_cuda is None and torch.cuda.is_available():
            notices.append("--on_cuda: training on GPUs is not built yet; on the CPU")
        for line in notices:
            print(f"run.py: warning: {line}", file=sys.stderr)
    if parsed.dry_run:
        if first:
            print(describe(plan, command))
        return 0
    if command is not None:
        if plan.search is not None:  # the ranks need not search again
            print(*plan.search.lines(), sep="\n", flush=True)
            command += ["--consensus_stepsize", repr(plan.search.best)]
        del plan  # its data set would lie in memory, beside the ranks', for as long as they run
        os.environ[LAUNCHER_VARIABLE] = "terminal" if sys.stderr.isatty() else "pipe"
        return launch(command)
    return _be_nodes(plan, place)


def _command(config: Config, arguments: Sequence[str]) -> list[str] | None:
    """The mpirun that starts the nodes, or None where they run in this process."""
    if config.launch.backend == "sim" or config.launch.n_mpi_process == 1:
        return None
    handed_on = [argument for argument in arguments if argument != "--dry_run"]
    return mpirun_command(config.launch, handed_on, Path(sys.argv[0]))


def _resolve(config: Config, given: frozenset[str], place: RankEnvironment | None) -> Config:
    """Fill in what depends on where this process runs."""
    options = config.launch
    if place is not None:
        if "n_mpi_process" not in given:
            options = dataclasses.replace(options, n_mpi_process=place.num_ranks)
        if place.kind != "mpi" and "backend" not in given:
            options = dataclasses.replace(options, backend="gloo")
        check_ranks(place, options)
        if place.kind != "mpi" and options.backend == "mpi":
            raise UserError(
                f"--backend mpi: {place.kind} starts no MPI ranks; use mpirun, or --backend gloo"
            )
    here = options.n_mpi_process if place is None else place.num_local_ranks
    threads = threads_per_node(options.num_threads, here)
    return dataclasses.replace(config, launch=dataclasses.replace(options, num_threads=threads))


def _be_nodes(plan: Plan, place: RankEnvironment | None) -> int:
    """Run this process's node, or all of them."""
    options = plan.config.launch
    torch.set_num_threads(options.num_threads or 1)
    if place is None or place.rank == 0:
        print(*headline(plan), sep="\n", flush=True)
    if place is None:
        try:
            Simulation(options.n_mpi_process).run(lambda node: run_node(plan, node))
        except (CommunicationError, DivergenceError, UserError) as error:
            print(f"run.py: error: {error}", file=sys.stderr)
            return _status(error)
        return 0
    connected = False
    try:
        connect(options, place)
        connected = True
        run_node(plan, DistributedCommunicator())
        disconnect()
    except (CommunicationError, DivergenceError) as error:
        abort(f"run.py: error: {error}", _status(error))
    except UserError as error:
        if connected:  # in a file that this rank has read
            abort(f"run.py: error: rank {place.rank}: {error}", USER_ERROR)
        # Every rank finds the same error: one of them reports it.
        abort(f"run.py: error: {error}" if place.rank == 0 else "", USER_ERROR)
    except BaseException:  # the other ranks must not wait for this one, whatever happened
        abort(traceback.format_exc())
    return 0


def _status(error: Exception) -> int:
    """The exit status of a run that ended with this."""
    if isinstance(error, UserError):
        return USER_ERROR
    return DIVERGED if isinstance(error, DivergenceError) else 1
