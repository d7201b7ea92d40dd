"""A rank's part of a check: join the others as a run does, and measure the edges of the graph."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pcode.check.edges import EdgeError, Measured, measure
from pcode.check.hosts import Answer, Site
from pcode.check.judge import judge_hosts
from pcode.check.report import WRONG_STATUS, Report
from pcode.check.rounds import Edge, edges_of
from pcode.check.slow import named, slow, slowest, table
from pcode.communication import Communicator
from pcode.communication.connect import abort, connect, disconnect
from pcode.config import Config
from pcode.launch import RankEnvironment, rendezvous_address
from pcode.training.plan import Plan
from pcode.utils.devices import device_of
from pcode.utils.errors import CommunicationError, UserError

# Those that measure an edge which does not answer say so before the first rank ends them, and that,
# which knows whom it waits for, before the others do.
_FIRST_GRACE_SECONDS, _GRACE_SECONDS = 3.0, 8.0
# For all edges. What was slow is measured again, so many times: something else may have been busy.
_ALL_SECONDS = 40.0
_MORE_TRIALS, _MORE_SECONDS = 4, 10.0


@dataclass(frozen=True)
class Own:
    """What a rank brings.

    Attributes:
        host: what it is called.
        plan: of the run, or why its flags cannot be followed on this host.
        answer: what its host says of itself, of one rank of each host; None: it is known.
    """

    host: str
    plan: Plan | UserError
    answer: Answer | None

    def told(self) -> dict[str, Any]:
        """For the others."""
        fails, answer = isinstance(self.plan, UserError), self.answer
        return {
            "host": self.host,
            "mistake": str(self.plan) if fails else None,
            "answer": None if answer is None else [answer.facts, answer.failure],
        }


def be_rank(config: Config, place: RankEnvironment, own: Own, launched: bool) -> int:
    """Be a rank of the check, from joining to leaving; the exit status.

    Rank 0 prints what all have found. Ranks that wait in vain say for whom.

    Args:
        config: the flags, with the time limit of this check.
        launched: by the check of another process, which counts the lines and has the last word.
    """
    report = Report()
    try:
        options = config.launch
        communicator = connect(
            options.backend,
            place.rank,
            place.num_ranks,
            device=device_of(options.on_cuda, options.world, place.rank),
            limit_seconds=options.time_limit_seconds,
            address=None if options.backend == "mpi" else rendezvous_address(),
            comm_device=options.comm_device,
        )
        _check(communicator, config, own, report)
        status = 0 if launched else _agree(communicator, report)
        disconnect(status)
    except CommunicationError as error:
        if not error.reported_by_peer:
            time.sleep(_FIRST_GRACE_SECONDS if place.rank == 0 else _GRACE_SECONDS)
            who = "" if error.peer is None else f"rank {error.peer} does not answer: "
            report.wrong(f"--backend {config.launch.backend}: {who}{error.reason}")
        abort("", WRONG_STATUS)
    except UserError as error:
        report.wrong(str(error))
        abort("", WRONG_STATUS)
    except BaseException:  # the other ranks must not wait for this one, whatever happened
        abort(traceback.format_exc(), WRONG_STATUS)
    return status


def _check(communicator: Communicator, config: Config, own: Own, report: Report) -> None:
    told = _gather(communicator, own.told())
    hosts = [each["host"] for each in told]
    if communicator.rank == 0:
        if own.answer is not None:
            judge_hosts(report, _answers(told), config)
        for mistake in dict.fromkeys(
            f"{each['host']}: {each['mistake']}" for each in told if each["mistake"] is not None
        ):
            report.wrong(mistake)
    if any(each["mistake"] is not None for each in told):
        return
    assert not isinstance(own.plan, UserError), "nobody has made a mistake"
    edges = edges_of(own.plan.topology, config.launch.n_sub_process)
    try:
        found = _measure_carefully(communicator, edges, hosts)
    except EdgeError as error:
        # Others that were being measured had not come to their end when this one failed.
        late = error.seconds > config.launch.time_limit_seconds / 2
        if late or not error.cause.reported_by_peer:
            report.wrong(f"{named(error.edge, hosts)}: no answer ({error.cause.reason})")
        abort("", WRONG_STATUS)
    if communicator.rank == 0 and found:
        _tell(report, found, hosts, own.plan)


def _measure_carefully(
    communicator: Communicator, edges: Sequence[Edge], hosts: Sequence[str]
) -> list[Measured]:
    """As `measure`, and what is slow again; the best of it."""
    found = {one.edge: one for one in measure(communicator, edges, hosts, _ALL_SECONDS)}
    for _ in range(_MORE_TRIALS):
        again = list(slow(list(found.values()), hosts))
        for one in measure(communicator, again, hosts, _MORE_SECONDS) if again else ():
            found[one.edge] = found[one.edge].better(one)
    return list(found.values())


def _tell(report: Report, found: Sequence[Measured], hosts: Sequence[str], plan: Plan) -> None:
    last = slowest(found, plan.message_bytes)
    seconds = last.message_seconds(plan.message_bytes)
    report.ok(
        f"all edges of {plan.topology.name} ({len(found)}) answer over "
        f"{plan.config.launch.backend}; a message of this run ({plan.message_bytes:,} bytes) takes "
        f"{1e3 * seconds:.3g} ms on the slowest"
    )
    report.table(table(found, hosts, plan.message_bytes))
    for edge, reason in slow(found, hosts).items():
        report.wrong(f"slow: {named(edge, hosts)}: {reason}")


def _agree(communicator: Communicator, report: Report) -> int:
    """Rank 0's status, which it prints the last line for, on all ranks."""
    own = report.status() if communicator.rank == 0 else 0
    return max(int(each["status"]) for each in _gather(communicator, {"status": own}))


def _answers(told: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """What hosts have said, with all their ranks."""
    hosts = [each["host"] for each in told]
    return [
        Answer(Site(host, [rank for rank, other in enumerate(hosts) if other == host]), *answer)
        for host, answer in ((each["host"], each["answer"]) for each in told)
        if answer is not None
    ]


def _gather(communicator: Communicator, own: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What every rank knows, by rank, sent as JSON."""
    text = torch.frombuffer(bytearray(json.dumps(own).encode()), dtype=torch.uint8)
    sizes = [int(size) for size in communicator.all_gather(torch.tensor([len(text)]))]
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: len(text)] = text
    gathered = zip(communicator.all_gather(padded), sizes, strict=True)
    return [json.loads(bytes(row[:size].tolist())) for row, size in gathered]
