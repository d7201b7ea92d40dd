"""The check of a run, from its flags to a last line: on this machine, or as one of the ranks."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from pcode.check.hosts import Answer, ask_here, ask_hosts, divided, meet, settings, sites
from pcode.check.judge import judge_hosts
from pcode.check.ranks import Own, be_rank
from pcode.check.report import Report
from pcode.check.running import mpirun_together, run_all
from pcode.config import Config
from pcode.config.options import AUTO
from pcode.launch import Host, RankEnvironment, read_hostfile, runs_here
from pcode.launch.mpirun import find_mpirun, go_to, with_variable
from pcode.launch.options import Launch
from pcode.training.plan import Plan
from pcode.training.planning import check_backend, make_plan
from pcode.utils.devices import check_gpus
from pcode.utils.errors import UserError

# Holds the names of the ranks' hosts, by rank, where a check has started the ranks.
VARIABLE = "PCODE_CHECK"
# An edge answers sooner, or there is no training over it.
_LONGEST_LIMIT_SECONDS = 30.0
# Joining, and edges that are slow; and what a core needs for the imports of a rank.
_RANKS_SECONDS, _START_SECONDS = 150.0, 6.0


def check(
    config: Config,
    place: RankEnvironment | None,
    command: Sequence[str] | None,
    script: Path,
    warnings: Sequence[str],
) -> int:
    """Look at what a run with these flags needs; print what is wrong. Writes nothing.

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
    limit = min(_LONGEST_LIMIT_SECONDS, config.launch.time_limit_seconds)
    launch = dataclasses.replace(config.launch, time_limit_seconds=limit)
    config = dataclasses.replace(config, launch=launch)
    asked = settings(config, script)
    if place is not None:
        return _check_as_rank(config, place, asked)
    if command is not None and launch.work_dir is not None:
        go_to(launch.work_dir)
    plan = _plan(config)
    report = Report()
    report.ok(
        f"flags: {config.model.arch} on {config.data.data}, {_nodes(launch)}, "
        f"{plan.topology.name}, --backend {launch.backend}"
    )
    for line in (*warnings, *plan.warnings):
        report.note(line)
    if command is None:
        judge_hosts(report, [ask_here([sys.executable, "-u"], launch, asked)], config)
    elif _check_hosts(report, config, asked):
        _check_edges(report, config, command)
    _check_backend(report, config)
    return report.status()


def _nodes(launch: Launch) -> str:
    each = f" of {launch.n_sub_process} processes" if launch.n_sub_process > 1 else ""
    return f"{launch.n_mpi_process} nodes{each}"


def _plan(config: Config) -> Plan:
    """The plan, whatever GPUs there are on this machine (hosts are asked), without a search."""
    launch, options = dataclasses.replace(config.launch, on_cuda=None), config.options
    if options["consensus_stepsize"] == AUTO:
        options = {**options, "consensus_stepsize": None}
    return make_plan(dataclasses.replace(config, launch=launch, options=options))


def _check_backend(report: Report, config: Config) -> None:
    try:
        check_backend(config)
    except UserError as error:
        report.wrong(str(error))


def _check_hosts(report: Report, config: Config, asked: str) -> bool:
    """Look at mpirun and every host; whether ranks can be started on them."""
    launch = config.launch
    hosts = () if launch.hostfile is None else read_hostfile(launch.hostfile)
    version = _mpirun_version(report, launch)
    if hosts:
        slots = sum(host.slots for host in hosts)
        report.ok(
            f"--hostfile {launch.hostfile}: {len(hosts)} hosts, {slots} slots for {_nodes(launch)}"
        )
    torn = divided(sites(hosts, launch.num_processes), launch.n_sub_process)
    if torn:
        report.note(
            f"{len(torn)} nodes lie on several hosts, as {', '.join(torn[0])}: slots= a multiple "
            f"of --n_sub_process {launch.n_sub_process} keeps a node together"
        )
    before = report.num_wrong
    answers = ask_hosts(launch, hosts, asked, not runs_here(launch), report.note)
    judge_hosts(report, answers, config, version)
    if report.num_wrong == before and len(hosts) > 1:
        _check_meeting(report, launch, hosts, answers)
    if report.num_wrong > before:
        report.note("the edges of the graph are not measured before that is right")
    return report.num_wrong == before


def _mpirun_version(report: Report, launch: Launch) -> str | None:
    path = find_mpirun(launch.mpi_path)
    (done,) = run_all([[path, "--version"]], launch.time_limit_seconds)
    lines = done.output.strip().splitlines()
    if done.status != 0 or not lines:
        report.wrong(f"{path} does not start: {done.reason(launch.time_limit_seconds)}")
        return None
    version = re.sub(r"^mpirun \((.*)\)", r"\1", lines[0])
    report.ok(f"mpirun: {version}, {path}")
    return version


def _check_meeting(
    report: Report, launch: Launch, hosts: Sequence[Host], answers: Sequence[Answer]
) -> None:
    """Whether every host reaches every other."""
    failed = meet(launch, hosts, answers, report.note)
    if isinstance(failed, str):
        report.wrong(f"one mpirun over all hosts: {failed}")
        return
    names = [host.name for host in hosts]
    for (one, other), reason in sorted(failed.items()):
        if (other, one) not in failed:
            report.wrong(f"{names[one]} does not reach {names[other]}: {reason}")
        elif one < other:
            report.wrong(f"{names[one]} and {names[other]} do not reach each other: {reason}")
    if not failed:
        report.ok("every host reaches every other")


def _check_edges(report: Report, config: Config, command: Sequence[str]) -> None:
    """Start the run's ranks, to join and to measure; pass on what they say."""
    launch = config.launch
    hosts = () if launch.hostfile is None else read_hostfile(launch.hostfile)
    places = sites(hosts, launch.num_processes)
    names = [site.name for site in places for _ in site.ranks]
    command = with_variable(command, VARIABLE, ",".join(names))
    crowd = max(len(site.ranks) for site in places)
    limit = _RANKS_SECONDS + _START_SECONDS * crowd
    (done,) = mpirun_together([command], limit, report.note)
    before = report.num_wrong
    for line in dict.fromkeys(done.output.splitlines()):  # ranks may find the same
        report.repeat(line)
    if done.status != 0 and report.num_wrong == before:
        report.wrong(f"ranks do not start or join over {launch.backend}: {done.reason(limit)}")


def _check_as_rank(config: Config, place: RankEnvironment, asked: str) -> int:
    names = os.environ.get(VARIABLE)
    host = socket.gethostname() if names is None else names.split(",")[place.rank]
    answer = None
    if names is None and place.local_rank == 0:
        answer = ask_here([sys.executable, "-u"], config.launch, asked)
    plan: Plan | UserError
    try:
        if config.launch.on_cuda:
            check_gpus(config.launch.world, [place.rank])
        plan = _plan(config)
    except UserError as error:  # on this host, maybe not on others
        plan = error
    return be_rank(config, place, Own(host, plan, answer), launched=names is not None)
