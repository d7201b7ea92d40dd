"""Asking every host of a run, each on its own, by the way on which a run starts its ranks."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from pcode.check import probe
from pcode.check.commands import CommandResult, run_all, run_mpiruns
from pcode.config import Config
from pcode.launch.environment import derived_port
from pcode.launch.hostfile import Host
from pcode.launch.mpirun import Mpirun

DISTRIBUTION = "choco-sgd"
# A program that every Python runs, to ask for its version where the probe fails.
_VERSION = "import sys; print('pcode-version:%d.%d.%d' % sys.version_info[:3])"
_VERSION_MARK = "pcode-version:"
_PYTHON_ERROR = re.compile(r"^\w+Error: ", re.MULTILINE)
# A first connection by ssh takes seconds where names are looked up slowly.
_MIN_LIMIT_SECONDS = 10.0
_CONNECT_SECONDS = 10.0
_TRIALS = 3
_HERE = "this machine"

Note = Callable[[str], None]


@dataclass(frozen=True)
class CheckedHost:
    """A host of the run, as the user calls it, and the ranks that it takes.

    Its facts are what it reports, see pcode.check.probe; None: it was not asked, or has a failure.
    """

    name: str
    ranks: Sequence[int]
    facts: dict[str, Any] | None = None
    failure: str | None = None

    def answered(self, ended: CommandResult, limit_seconds: float) -> CheckedHost:
        """Return the same with what the probe has printed there."""
        for facts in _marked(ended.output, probe.MARK):
            return dataclasses.replace(self, facts=json.loads(facts))
        return dataclasses.replace(self, failure=ended.reason(limit_seconds))


def place_ranks(hosts: Sequence[Host], num_ranks: int) -> list[CheckedHost]:
    """Place rank after rank onto host after host; without any, onto this machine."""
    if not hosts:
        return [CheckedHost(_HERE, range(num_ranks))]
    ends = [min(end, num_ranks) for end in accumulate(host.slots for host in hosts)]
    spans = pairwise([0, *ends])
    return [CheckedHost(host.name, range(*span)) for host, span in zip(hosts, spans, strict=True)]


def names_by_rank(hosts: Sequence[CheckedHost]) -> list[str]:
    return [host.name for host in hosts for _ in host.ranks]


def divided(hosts: Sequence[CheckedHost], num_local_ranks: int) -> list[list[str]]:
    """Return the hosts of each node whose processes, so many of them, lie on several."""
    names = names_by_rank(hosts)
    starts = range(0, len(names), num_local_ranks)
    nodes = (sorted(set(names[start : start + num_local_ranks])) for start in starts)
    return [node for node in nodes if len(node) > 1]


def requirements() -> list[Requirement] | None:
    """Return what this program needs installed; None: its own installation does not say."""
    try:
        texts = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return None
    found = [Requirement(text) for text in texts]
    return [need for need in found if need.marker is None or need.marker.evaluate({"extra": ""})]


def probe_arguments(config: Config, script: Path) -> list[str]:
    """Return the interpreter's arguments to ask for facts; relative paths are the user's."""
    settings = {
        "script": os.path.abspath(script),
        "folder": os.path.abspath(config.launch.work_dir or "."),
        "data_dir": config.data.data_dir,
        "checkpoint": config.watch.checkpoint,
        "packages": [need.name for need in requirements() or ()],
    }
    return _probe(settings)


def _probe(settings: dict[str, Any]) -> list[str]:
    return ["-c", Path(probe.__file__).read_text(encoding="utf-8"), json.dumps(settings)]


def _once_a_host(mpirun: Mpirun, hosts: Sequence[Host], program: Sequence[str]) -> list[str]:
    """Return the mpirun that runs a program once on each of these hosts, or here without any."""
    each = [dataclasses.replace(host, slots=1) for host in hosts]
    num_ranks = max(1, len(each))
    return dataclasses.replace(
        mpirun, program=program, num_ranks=num_ranks, hosts=each, work_dir=None
    ).command()


def ask_hosts(
    mpirun: Mpirun, arguments: Sequence[str], limit_seconds: float, note: Note
) -> list[CheckedHost]:
    """Ask all hosts, or this machine, at the same time, each through an mpirun of its own."""
    placed = place_ranks(mpirun.hosts, mpirun.num_ranks)
    limit = max(_MIN_LIMIT_SECONDS, limit_seconds)
    each = [[host] for host in mpirun.hosts] or [[]]
    ended = run_mpiruns([_once_a_host(mpirun, host, arguments) for host in each], limit, note)
    answers = [host.answered(end, limit) for host, end in zip(placed, ended, strict=True)]
    # Another Python may not even read the probe: it is asked for its version alone.
    failed = [index for index, end in enumerate(ended) if _PYTHON_ERROR.search(end.errors)]
    asking = [_once_a_host(mpirun, each[index], ["-c", _VERSION]) for index in failed]
    again = run_mpiruns(asking, limit, note)
    for index, end in zip(failed, again, strict=True):
        for version in _marked(end.output, _VERSION_MARK):
            failure = f"Python {version} cannot run this program; --python_path names another"
            answers[index] = dataclasses.replace(answers[index], failure=failure)
    return answers


def ask_here(num_ranks: int, arguments: Sequence[str], limit_seconds: float) -> CheckedHost:
    """Ask this machine without mpirun."""
    limit = max(_MIN_LIMIT_SECONDS, limit_seconds)
    (ended,) = run_all([[sys.executable, "-u", *arguments]], limit)
    return CheckedHost(_HERE, range(num_ranks)).answered(ended, limit)


def connect_all(
    mpirun: Mpirun, answers: Sequence[CheckedHost], limit_seconds: float, note: Note
) -> dict[tuple[int, int], str] | str:
    """Let every host connect to every other.

    Returns:
        (who, whom) by their places in the hostfile -> the reason, for those that did not succeed;
        or why nothing of it is known.
    """
    addresses = [list((answer.facts or {})["addresses"].values()) for answer in answers]
    seconds = min(_CONNECT_SECONDS, limit_seconds)
    limit = max(_MIN_LIMIT_SECONDS, limit_seconds) + seconds
    # Where a firewall leaves only some ports to MPI, the first of these.
    opened = os.environ.get("OMPI_MCA_btl_tcp_port_min_v4", "")  # noqa: SIM112  # MPI's name
    for trial in range(_TRIALS):
        port = int(opened) + trial if opened.isdecimal() else derived_port(f"{os.getpid()} {trial}")
        settings = {"addresses": addresses, "port": port, "limit_seconds": seconds}
        (ended,) = run_mpiruns([_once_a_host(mpirun, mpirun.hosts, _probe(settings))], limit, note)
        if "Address already in use" not in ended.errors:
            break
    reports = [json.loads(line) for line in _marked(ended.output, probe.MARK)]
    if len(reports) < len(mpirun.hosts):
        return ended.reason(limit)
    return {
        (report["host"], int(other)): reason
        for report in reports
        for other, reason in report["failed"].items()
    }


def _marked(output: str, mark: str) -> list[str]:
    """Return what follows the mark, of the lines that begin with it."""
    return [line.removeprefix(mark) for line in output.splitlines() if line.startswith(mark)]
