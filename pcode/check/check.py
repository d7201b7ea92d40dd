"""The check of a run, from its flags to a last line: on this machine, or as one of the ranks."""

import dataclasses
import json
import os
import re
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from socket import gethostname
from typing import Any

import torch

from pcode.check.commands import run_all, run_mpiruns
from pcode.check.edges import EdgeError, edges_of, measure_all, named, slow, table
from pcode.check.hosts import (
    CheckedHost,
    ask_here,
    ask_hosts,
    connect_all,
    divided,
    names_by_rank,
    place_ranks,
    probe_arguments,
)
from pcode.check.report import WRONG_STATUS, Facts, Report, report_hosts
from pcode.communication import Communicator
from pcode.communication.connect import abort, disconnect
from pcode.communication.gathering import gather_floats
from pcode.config import Config
from pcode.config.launch_options import Launch
from pcode.config.options import AUTO
from pcode.joining import join
from pcode.launch.environment import RankEnvironment
from pcode.launch.mpirun import Mpirun, find_mpirun, go_to, with_variable
from pcode.training.plan import Plan
from pcode.training.planning import check_launch, make_plan
from pcode.utils.devices import check_gpus
from pcode.utils.errors import CommunicationError, UserError

# An edge answers sooner, or there is no training over it.
_MAX_LIMIT_SECONDS = 30.0
# Joining, and edges that are slow; and what a core needs for the imports of a rank.
_RANKS_SECONDS, _START_SECONDS = 150.0, 6.0
# Holds the names of the ranks' hosts, by rank, where a check has started the ranks.
_VARIABLE = "PCODE_CHECK"
# The ends of an edge that does not answer print so before rank 0 ends them, and rank 0, which knows
# whom it waits for, before the others do.
_FIRST_GRACE_SECONDS, _GRACE_SECONDS = 3.0, 8.0


def check(
    config: Config,
    place: RankEnvironment | None,
    mpirun: Mpirun | None,
    script: Path,
    warnings: Sequence[str],
) -> int:
    """Look at what a run with these flags needs; print what is wrong. Write nothing.

    Args:
        place: of this process among ranks, if it is one.
        mpirun: what would start the run; None: it needs none.
        script: run.py.

    Returns:
        The exit status. 0: nothing is wrong; 1: something is.

    Raises:
        UserError: the flags cannot be followed, wherever they are.
    """
    limit = min(_MAX_LIMIT_SECONDS, config.launch.time_limit_seconds)
    launch = dataclasses.replace(config.launch, time_limit_seconds=limit)
    config = dataclasses.replace(config, launch=launch)
    arguments = probe_arguments(config, script)
    planned = _planned(config)
    if place is not None:
        return _check_as_rank(config, planned, place, arguments)
    command = [] if mpirun is None else mpirun.command()  # of the directory where the user is
    if mpirun is not None and mpirun.work_dir is not None:
        go_to(mpirun.work_dir)
    plan, report = make_plan(planned), Report()
    report.ok(
        f"flags: {config.model.arch} on {config.data.data}, {_nodes(launch)}, "
        f"{plan.topology.name}, --backend {launch.backend}"
    )
    for line in (*warnings, *plan.warnings):
        report.note(line)
    if mpirun is None:
        report_hosts(report, [ask_here(launch.num_processes, arguments, limit)], config)
    else:
        _check_hosts(report, config, mpirun, arguments)
        if report.num_wrong:
            report.note("the edges of the graph are not measured before that is right")
        else:
            _check_edges(report, launch.backend, mpirun, command)
    try:
        check_launch(config)
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


def _check_hosts(report: Report, config: Config, mpirun: Mpirun, arguments: Sequence[str]) -> None:
    """Look at mpirun, at every host, and whether every host reaches every other."""
    launch, hosts, limit = config.launch, mpirun.hosts, config.launch.time_limit_seconds
    version = _mpirun_version(report, mpirun.mpi_path, limit)
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
    answers = ask_hosts(mpirun, arguments, limit, report.note)
    report_hosts(report, answers, config, version)
    if report.num_wrong or len(hosts) < 2:
        return
    failed = connect_all(mpirun, answers, limit, report.note)
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


def _mpirun_version(report: Report, mpi_path: str | None, limit_seconds: float) -> str | None:
    path = find_mpirun(mpi_path)
    (ended,) = run_all([[path, "--version"]], limit_seconds)
    lines = ended.output.strip().splitlines()
    if ended.status != 0 or not lines:
        report.wrong(f"{path} does not start: {ended.reason(limit_seconds)}")
        return None
    version = re.sub(r"^mpirun \((.*)\)", r"\1", lines[0])
    report.ok(f"mpirun: {version}, {path}")
    return version


def _check_edges(report: Report, backend: str, mpirun: Mpirun, command: list[str]) -> None:
    """Start the run's ranks, to join and to measure; pass on what they print."""
    placed = place_ranks(mpirun.hosts, mpirun.num_ranks)
    command = with_variable(command, _VARIABLE, ",".join(names_by_rank(placed)))
    limit = _RANKS_SECONDS + _START_SECONDS * max(len(host.ranks) for host in placed)
    (ended,) = run_mpiruns([command], limit, report.note, here=not mpirun.is_remote)
    for line in dict.fromkeys(ended.output.splitlines()):  # ranks may find the same
        report.repeat(line)
    if ended.status != 0 and not report.num_wrong:
        report.wrong(f"ranks do not start or join over {backend}: {ended.reason(limit)}")


def _check_as_rank(
    config: Config, planned: Config, place: RankEnvironment, arguments: Sequence[str]
) -> int:
    """Be a rank of the check, from joining to leaving; return the exit status.

    Rank 0 prints what all have found. Ranks that wait in vain print for whom. Where no launcher
    has asked this host, the probe of these arguments does.
    """
    names, report, options = os.environ.get(_VARIABLE), Report(), config.launch
    own: Facts = {"host": gethostname(), "error": None, "answer": None}
    if names is not None:
        own["host"] = names.split(",")[place.rank]
    elif place.local_rank == 0:
        answer = ask_here(place.num_ranks, arguments, options.time_limit_seconds)
        own["answer"] = [answer.facts, answer.failure]
    plan = None
    try:
        if options.on_cuda:
            check_gpus(options.world, [place.rank])
        plan = make_plan(planned)
    except UserError as error:  # on this host, maybe not on others
        own["error"] = str(error)
    try:
        communicator = join(options, place)
        _check_together(communicator, config, plan, own, report)
        status = 0
        if names is None:  # otherwise the launcher counts the lines and prints the last
            own_status = report.status() if communicator.rank == 0 else 0
            status = int(max(gather_floats(communicator, [own_status]))[0])
        disconnect(communicator, status)
    except CommunicationError as error:
        if not error.reported_by_peer:
            time.sleep(_FIRST_GRACE_SECONDS if place.rank == 0 else _GRACE_SECONDS)
            who = "" if error.peer is None else f"rank {error.peer} does not answer: "
            report.wrong(f"--backend {options.backend}: {who}{error.reason}")
        abort("", WRONG_STATUS)
    except UserError as error:
        report.wrong(str(error))
        abort("", WRONG_STATUS)
    except BaseException:  # the other ranks must not wait for this one, whatever happened
        abort(traceback.format_exc(), WRONG_STATUS)
    return status


def _check_together(
    communicator: Communicator, config: Config, plan: Plan | None, own: Facts, report: Report
) -> None:
    """Report the hosts, unless that was done, and the edges; without a plan `own` has an error."""
    ranks = _gather(communicator, own)
    hosts = [each["host"] for each in ranks]
    errors = dict.fromkeys(f"{each['host']}: {each['error']}" for each in ranks if each["error"])
    if communicator.rank == 0:
        answers = [
            CheckedHost(name, [rank for rank, host in enumerate(hosts) if host == name], *answer)
            for name, answer in ((each["host"], each["answer"]) for each in ranks)
            if answer is not None
        ]
        if answers:
            report_hosts(report, answers, config)
        for line in errors:
            report.wrong(line)
    if errors:
        return
    assert plan is not None, "no rank has an error"
    edges = edges_of(plan.topology, config.launch.n_sub_process)
    try:
        found = measure_all(communicator, edges, hosts)
    except EdgeError as failure:
        # Others that were being measured had not come to their end when this one failed.
        if (
            not failure.cause.reported_by_peer
            or failure.seconds > config.launch.time_limit_seconds / 2
        ):
            report.wrong(f"{named(failure.edge, hosts)}: no answer ({failure.cause.reason})")
        abort("", WRONG_STATUS)
    if communicator.rank != 0 or not found:
        return
    seconds = max(edge.message_seconds(plan.message_bytes) for edge in found)
    report.ok(
        f"all edges of {plan.topology.name} ({len(found)}) answer over "
        f"{config.launch.backend}; a message of this run ({plan.message_bytes:,} bytes) takes "
        f"{1e3 * seconds:.3g} ms on the slowest"
    )
    for line in table(found, hosts, plan.message_bytes):
        report.repeat(f"{'':<5}  {line}")
    for edge, reason in slow(found, hosts).items():
        report.wrong(f"slow: {named(edge, hosts)}: {reason}")


def _gather(communicator: Communicator, own: Any) -> list[Any]:
    """Return every rank's object, by rank, sent as JSON."""
    text = torch.frombuffer(bytearray(json.dumps(own).encode()), dtype=torch.uint8)
    sizes = [int(size) for size in communicator.all_gather(torch.tensor([len(text)]))]
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: len(text)] = text
    gathered = zip(communicator.all_gather(padded), sizes, strict=True)
    return [json.loads(bytes(row[:size].tolist())) for row, size in gathered]
