"""From the command line to a run: check, then describe, launch, or be a node."""

import dataclasses
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from socket import gethostname

import torch

from pcode.check.check import check
from pcode.communication import Simulation
from pcode.communication.connect import abort, disconnect
from pcode.communication.injection import read_faults
from pcode.config import Config, parse
from pcode.config.launch_options import Launch
from pcode.config.options import AUTO
from pcode.joining import join
from pcode.launch.environment import RankEnvironment, check_ranks, detect, num_nodes_of
from pcode.launch.hostfile import all_here, check_slots, read_hostfile
from pcode.launch.mpirun import Mpirun, allow_open_files, go_to, with_variable
from pcode.launch.scratch import StepMark
from pcode.launch.supervise import launch
from pcode.training.loop import run_node
from pcode.training.plan import Plan
from pcode.training.planning import make_plan
from pcode.training.records import runs_folder
from pcode.training.reports import describe, headline
from pcode.training.restarts import Attempt, GoingBack, new_run, next_attempt, run_attempts
from pcode.training.resume import FOUND_VARIABLE
from pcode.training.sync import StopRequest
from pcode.utils.devices import check_gpus, gpu_notices, threads_per_node, use_memory_well
from pcode.utils.errors import (
    INTERRUPTED,
    PREEMPTED,
    TAKEN,
    USER_ERROR,
    CommunicationError,
    HostError,
    Preempted,
    RunError,
    TakenError,
    UserError,
    lacks_memory,
    say,
)
from pcode.utils.files import one_line

# The launcher sets it to "terminal" where its standard error is one: a rank's own never is.
LAUNCHER_VARIABLE = "PCODE_LAUNCHER"


def main(arguments: Sequence[str]) -> int:
    """Do what the flags ask for; the exit status.

    0: done; those of pcode.utils.errors; 143: SIGTERM, and the nodes could not save; 141: nobody
    reads the standard output; anything else: a node failed.
    """
    try:
        folder = os.getcwd()
        # Plan again, but for a rank, whose launcher does.
        while (status := _main(arguments)) == TAKEN and detect() is None:
            os.chdir(folder)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except UserError as error:  # in what the launch needs
        say(f"error: {error}")
        return USER_ERROR
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        say(f"error: out of memory: {one_line(error)}")
        return 1
    except BrokenPipeError:  # `run.py ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return status


def _main(arguments: Sequence[str]) -> int:
    use_memory_well()
    place = None
    try:
        place = detect()
        read_faults()
        parsed = parse(arguments)
        config = resolve(parsed.config, parsed.given, place)
        mpirun = _mpirun(config.launch, arguments) if place is None else None
        shown = config.launch.hostfile if parsed.dry_run else None
        command = [] if mpirun is None else mpirun.command(shown)
        if parsed.check:
            return check(config, place, mpirun, Path(sys.argv[0]), parsed.warnings)
        if mpirun is not None and mpirun.work_dir is not None:
            go_to(mpirun.work_dir)
        # As far as this process knows: other hosts see for themselves.
        here = mpirun is None or not mpirun.is_remote
        started = config.launch.num_processes if here else 0
        processes = range(started) if place is None else [place.rank]
        check_gpus(config.launch.world, processes if config.launch.on_cuda else ())
        plan = make_plan(config)
    except UserError as error:
        return _report(error, place)
    first = place is None or place.rank == 0
    if first and LAUNCHER_VARIABLE not in os.environ:  # what the launcher has said is said
        on_gpus = config.launch.num_processes if config.launch.on_cuda else 0
        of_gpus = gpu_notices(config.launch.world, on_gpus)
        for line in (*parsed.warnings, *plan.warnings, *of_gpus):
            say(f"warning: {line}")
    if parsed.dry_run:
        if first:
            print(describe(plan, command))
        return 0
    if mpirun is not None:
        if plan.search is not None:  # the ranks need not search again
            print(*plan.search.lines(), sep="\n", flush=True)
            command += ["--consensus_stepsize", repr(plan.search.best)]
        runs = runs_folder(plan.config)
        first_attempt, going_back = _first_attempt(plan, config)
        command[1:1] = _found(plan, config)
        del plan  # its data set would lie in memory, beside the ranks', for as long as they run
        kind = "terminal" if sys.stderr.isatty() else "pipe"
        command = with_variable(command, LAUNCHER_VARIABLE, kind)
        num_nodes, trains = config.launch.n_mpi_process, not config.watch.evaluate
        return run_attempts(
            lambda flags: launch([*command, *flags], here, mpirun.survives_failures),
            first_attempt,
            lambda failed: next_attempt(
                failed, runs, num_nodes, trains=trains, going_back=going_back
            ),
            config.launch.max_restarts,
            # Hosts may share no files with this machine.
            summary_needed=here and config.launch.on_failure == "continue",
        )
    torch.set_num_threads(config.launch.num_threads or 1)
    if first:
        print(*headline(plan), sep="\n", flush=True)
    request = StopRequest()
    with request.listening():
        return _be_rank(plan, config, place, request) if place else _simulate(plan, request)


def _report(error: UserError, place: RankEnvironment | None) -> int:
    """Say why the flags cannot be followed; the exit status."""
    if isinstance(error, TakenError) and place is not None and LAUNCHER_VARIABLE in os.environ:
        return TAKEN
    # Every rank finds the same error, and one of them reports it, unless it is of its machine.
    if place is None or place.rank == 0:
        say(f"error: {error}")
    elif isinstance(error, HostError):
        say(f"error: rank {place.rank} on {gethostname()}: {error}")
    return USER_ERROR


def _first_attempt(plan: Plan, config: Config) -> tuple[Attempt, GoingBack | None]:
    """Return the ranks' first start, and the checkpoint that the user asked to go on from, if any.

    The launcher names the run, to find it again.
    """
    runs, start, going_back = runs_folder(plan.config), plan.start, None
    first = new_run(runs) if plan.timestamp is None else Attempt((), runs / plan.timestamp)
    if start is not None and start.same:
        first = Attempt((), start.run)
    if config.watch.resume == AUTO and start is None:  # the ranks are not to find one
        first = dataclasses.replace(first, flags=("--resume", "none", *first.flags))
    if config.watch.checkpoint_index is not None and start is not None and start.manifest:
        going_back = GoingBack(start.run, start.manifest.step)
    return first, going_back


def _found(plan: Plan, config: Config) -> list[str]:
    """Return mpirun's flags that tell the ranks what --resume auto has found.

    It is not set here, as `with_variable` does: this process may look again.
    """
    if config.watch.resume != AUTO or plan.start is None:
        return []
    return ["-x", f"{FOUND_VARIABLE}={plan.start.run}"]


def mpirun_of(flags: Launch, program: Sequence[str]) -> Mpirun:
    """Describe the mpirun of a program; a UserError for a bad hostfile or too few slots."""
    hosts = () if flags.hostfile is None else read_hostfile(flags.hostfile)
    if hosts:
        check_slots(hosts, flags.n_mpi_process, flags.n_sub_process)
    return Mpirun(
        program,
        flags.num_processes,
        hosts,
        is_remote=not all_here(hosts),
        mpi_path=flags.mpi_path,
        python_path=flags.python_path,
        work_dir=flags.work_dir,
        mpi_env=flags.mpi_env,
        has_store=flags.backend in ("gloo", "nccl"),
        survives_failures=flags.on_failure == "continue" and flags.backend == "mpi",
        use_ipc=flags.use_ipc if flags.on_cuda and flags.comm_device != "cpu" else None,
    )


def for_ranks(arguments: Sequence[str], work_dir: str | None) -> list[str]:
    """Return arguments as ranks get them: the file of flags lies where the user is, not there."""
    passed_on = list(arguments)
    for position, argument in enumerate(passed_on) if work_dir is not None else ():
        if passed_on[position - 1] == "--config":
            passed_on[position] = os.path.abspath(argument)
        elif argument.startswith("--config="):
            passed_on[position] = f"--config={os.path.abspath(argument.removeprefix('--config='))}"
    return passed_on


def _mpirun(flags: Launch, arguments: Sequence[str]) -> Mpirun | None:
    """Return the mpirun that starts the nodes, or None where they run in this process."""
    if flags.backend == "sim" or flags.num_processes == 1:
        return None
    passed_on = [argument for argument in arguments if argument != "--dry_run"]
    passed_on = for_ranks(passed_on, flags.work_dir)
    mpirun = mpirun_of(flags, [os.path.abspath(sys.argv[0]), *passed_on])
    if not mpirun.is_remote:
        allow_open_files(mpirun.num_ranks)
    return mpirun


def resolve(config: Config, given: frozenset[str], place: RankEnvironment | None) -> Config:
    """Fill in what depends on where this process runs."""
    flags = config.launch
    if place is not None:
        if "n_mpi_process" not in given:
            num_nodes = num_nodes_of(place, flags.n_sub_process)
            flags = dataclasses.replace(flags, n_mpi_process=num_nodes)
        if place.kind != "mpi" and "backend" not in given:
            flags = dataclasses.replace(flags, backend="gloo")
        check_ranks(place, flags.backend, flags.n_mpi_process, flags.n_sub_process)
    num_here = flags.num_processes if place is None else place.num_local_ranks
    flags = dataclasses.replace(flags, num_threads=threads_per_node(flags.num_threads, num_here))
    # Ranks on other hosts see for themselves.
    if flags.on_cuda is None and (
        place is not None or flags.hostfile is None or all_here(read_hostfile(flags.hostfile))
    ):
        flags = dataclasses.replace(flags, on_cuda=torch.cuda.is_available())
    return dataclasses.replace(config, launch=flags)


def _simulate(plan: Plan, request: StopRequest) -> int:
    """Run all nodes in this process."""
    terminal = sys.stderr.isatty()
    try:
        Simulation(plan.config.launch.num_processes).run(
            lambda process: run_node(plan, process, request, shows_progress=terminal)
        )
    except Preempted as end:
        print(f"run.py: {end}")
        return PREEMPTED
    except TakenError:
        return TAKEN
    except (RunError, UserError) as error:
        say(f"error: {error}")
        return error.exit_status
    return 0


def _be_rank(plan: Plan, config: Config, place: RankEnvironment, request: StopRequest) -> int:
    """Run the node of this rank, or its part of one."""
    flags = plan.config.launch
    connected, status = False, 0
    try:
        processes = join(flags, place)
        connected = True
        try:
            terminal = os.environ.get(LAUNCHER_VARIABLE) == "terminal" or sys.stderr.isatty()
            mark = StepMark(place.rank)
            while True:
                try:
                    run_node(plan, processes, request, mark, shows_progress=terminal)
                    break
                except TakenError:
                    if LAUNCHER_VARIABLE in os.environ:
                        abort("", TAKEN)
                    plan = make_plan(config)
        except Preempted as end:
            status = PREEMPTED
            if place.rank == 0:
                print(f"run.py: {end}", flush=True)
        disconnect(processes, status)
    except RunError as error:
        # A rank to which a peer has reported it stays silent: one line says it.
        is_reported = isinstance(error, CommunicationError) and error.reported_by_peer
        abort("" if is_reported else f"run.py: error: {error}", error.exit_status)
    except UserError as error:
        if connected:  # in a file that this rank has read
            abort(f"run.py: error: rank {place.rank}: {error}", USER_ERROR)
        # Every rank finds the same error: one of them reports it.
        abort(f"run.py: error: {error}" if place.rank == 0 else "", USER_ERROR)
    except BaseException:  # the other ranks must not wait for this one, whatever happened
        abort(traceback.format_exc())
    return status
