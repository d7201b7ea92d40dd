"""The check of a run, from its flags to a last line: on this machine, or as one of the ranks."""

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pcode.check.commands import run_all, run_mpiruns
from pcode.check.hosts import (
    ask_here,
    ask_hosts,
    connect_all,
    divided,
    names_by_rank,
    place_ranks,
    probe_arguments,
)
from pcode.check.ranks import VARIABLE, check_as_rank
from pcode.check.report import Report, report_hosts
from pcode.config import Config
from pcode.config.options import AUTO
from pcode.launch import Host, RankEnvironment, read_hostfile, runs_here
from pcode.launch.mpirun import find_mpirun, go_to, with_variable
from pcode.launch.options import Launch
from pcode.training.planning import check_backend, make_plan
from pcode.utils.errors import UserError

# An edge answers sooner, or there is no training over it.
_MAX_LIMIT_SECONDS = 30.0
# Joining, and edges that are slow; and what a core needs for the imports of a rank.
_RANKS_SECONDS, _START_SECONDS = 150.0, 6.0


def check(
    config: Config,
    place: RankEnvironment | None,
    command: Sequence[str] | None,
    script: Path,
    warnings: Sequence[str],
) -> int:
    """Look at what a run with these flags needs; print what is wrong. Write nothing.

    Args:
        place: of this process among ranks, if it is one.
        command: the mpirun that would start the run; None: it needs none.
        script: run.py.
        warnings: of the flags.

    Returns:
        0: nothing is wrong; 1: something is.

    Raises:
        UserError: the flags cannot be followed, wherever they are.
    """
    limit = min(_MAX_LIMIT_SECONDS, config.launch.time_limit_seconds)
    launch = dataclasses.replace(config.launch, time_limit_seconds=limit)
    config = dataclasses.replace(config, launch=launch)
    arguments = probe_arguments(config, script)
    planned = _planned(config)
    if place is not None:
        return check_as_rank(config, planned, place, arguments)
    if command is not None and launch.work_dir is not None:
        go_to(launch.work_dir)
    plan, report = make_plan(planned), Report()
    report.ok(
        f"flags: {config.model.arch} on {config.data.data}, {_nodes(launch)}, "
        f"{plan.topology.name}, --backend {launch.backend}"
    )
    for line in (*warnings, *plan.warnings):
        report.note(line)
    if command is None:
        report_hosts(report, [ask_here(launch, arguments, sys.executable)], config)
    else:
        hosts = () if launch.hostfile is None else read_hostfile(launch.hostfile)
        _check_hosts(report, config, hosts, arguments)
        if report.num_wrong:
            report.note("the edges of the graph are not measured before that is right")
        else:
            _check_edges(report, launch, hosts, command)
    try:
        check_backend(config)
    except UserError as error:
        report.wrong(str(error))
    return report.status()


def _nodes(launch: Launch) -> str:
    each = f" of {launch.n_sub_process} processes" if launch.n_sub_process > 1 else ""
    return f"{launch.n_mpi_process} nodes{each}"


def _planned(config: Config) -> Config:
    """Return the flags for a plan without GPUs, which hosts are asked for, and without a search."""
    launch, options = dataclasses.replace(config.launch, on_cuda=None), config.options
    if options["consensus_stepsize"] == AUTO:
        options = {**options, "consensus_stepsize": None}
    return dataclasses.replace(config, launch=launch, options=options)


def _check_hosts(
    report: Report, config: Config, hosts: Sequence[Host], arguments: Sequence[str]
) -> None:
    """Look at mpirun, at every host, and whether every host reaches every other."""
    launch = config.launch
    version = _mpirun_version(report, launch)
    if hosts:
        slots = sum(host.slots for host in hosts)
        report.ok(
            f"--hostfile {launch.hostfile}: {len(hosts)} hosts, {slots} slots for {_nodes(launch)}"
        )
    torn = divided(place_ranks(hosts, launch.num_processes), launch.n_sub_process)
    if torn:
        report.note(
            f"{len(torn)} nodes lie on several hosts, as {', '.join(torn[0])}: slots= a multiple "
            f"of --n_sub_process {launch.n_sub_process} keeps a node together"
        )
    answers = ask_hosts(launch, hosts, arguments, not runs_here(launch), report.note)
    report_hosts(report, answers, config, version)
    if report.num_wrong or len(hosts) < 2:
        return
    failed = connect_all(launch, hosts, answers, report.note)
    if isinstance(failed, str):
        report.wrong(f"one mpirun over all hosts: {failed}")
        return
    for (one, other), reason in sorted(failed.items()):
        names = hosts[one].name, hosts[other].name
        if (other, one) not in failed:
            report.wrong(f"{names[0]} does not reach {names[1]}: {reason}")
        elif one < other:
            report.wrong(f"{names[0]} and {names[1]} do not reach each other: {reason}")
    if not failed:
        report.ok("every host reaches every other")


def _mpirun_version(report: Report, launch: Launch) -> str | None:
    path = find_mpirun(launch.mpi_path)
    (ended,) = run_all([[path, "--version"]], launch.time_limit_seconds)
    lines = ended.output.strip().splitlines()
    if ended.status != 0 or not lines:
        report.wrong(f"{path} does not start: {ended.reason(launch.time_limit_seconds)}")
        return None
    version = re.sub(r"^mpirun \((.*)\)", r"\1", lines[0])
    report.ok(f"mpirun: {version}, {path}")
    return version


def _check_edges(
    report: Report, launch: Launch, hosts: Sequence[Host], command: Sequence[str]
) -> None:
    """Start the run's ranks, to join and to measure; pass on what they print."""
    placed = place_ranks(hosts, launch.num_processes)
    command = with_variable(command, VARIABLE, ",".join(names_by_rank(placed)))
    limit = _RANKS_SECONDS + _START_SECONDS * max(len(host.ranks) for host in placed)
    (ended,) = run_mpiruns([command], limit, report.note)
    for line in dict.fromkeys(ended.output.splitlines()):  # ranks may find the same
        report.repeat(line)
    if ended.status != 0 and not report.num_wrong:
        report.wrong(f"ranks do not start or join over {launch.backend}: {ended.reason(limit)}")
