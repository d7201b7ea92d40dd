"""A rank's part of a check: join the others as a run does, and measure the edges of the graph."""

import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from socket import gethostname
from typing import Any

import torch

from pcode.check.edges import EdgeError, edges_of, measure_all, named, slow, table
from pcode.check.hosts import CheckedHost, ask_here
from pcode.check.report import WRONG_STATUS, Report, report_hosts
from pcode.communication import Communicator
from pcode.communication.connect import abort, connect, disconnect
from pcode.communication.gathering import gather_floats
from pcode.config import Config
from pcode.launch import RankEnvironment, rendezvous_address
from pcode.training.plan import Plan
from pcode.training.planning import make_plan
from pcode.utils.devices import check_gpus, device_of
from pcode.utils.errors import CommunicationError, UserError

# Holds the names of the ranks' hosts, by rank, where a check has started the ranks.
VARIABLE = "PCODE_CHECK"
# The ends of an edge that does not answer print so before rank 0 ends them, and rank 0, which knows
# whom it waits for, before the others do.
_FIRST_GRACE_SECONDS, _GRACE_SECONDS = 3.0, 8.0


def check_as_rank(
    config: Config, planned: Config, place: RankEnvironment, probe_arguments: Sequence[str]
) -> int:
    """Be a rank of the check, from joining to leaving; return the exit status.

    Rank 0 prints what all have found. Ranks that wait in vain print for whom.

    Args:
        planned: the flags as the plan is made of them.
        probe_arguments: for this host, where no launcher has asked it.
    """
    names, report = os.environ.get(VARIABLE), Report()
    own: dict[str, Any] = {"host": gethostname(), "error": None, "answer": None}
    if names is not None:
        own["host"] = names.split(",")[place.rank]
    elif place.local_rank == 0:
        answer = ask_here(config.launch, probe_arguments, sys.executable)
        own["answer"] = [answer.facts, answer.failure]
    plan, options = None, config.launch
    try:
        if options.on_cuda:
            check_gpus(options.world, [place.rank])
        plan = make_plan(planned)
    except UserError as error:  # on this host, maybe not on others
        own["error"] = str(error)
    try:
        communicator = connect(
            options.backend,
            place.rank,
            place.num_ranks,
            device=device_of(options.on_cuda, options.world, place.rank),
            limit_seconds=options.time_limit_seconds,
            address=None if options.backend == "mpi" else rendezvous_address(),
            comm_device=options.comm_device,
        )
        _check(communicator, config, plan, own, report)
        status = 0
        if names is None:  # otherwise the launcher counts the lines and prints the last
            own_status = report.status() if communicator.rank == 0 else 0
            status = int(max(gather_floats(communicator, [own_status]))[0])
        disconnect(status)
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


def _check(
    communicator: Communicator,
    config: Config,
    plan: Plan | None,
    own: dict[str, Any],
    report: Report,
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
