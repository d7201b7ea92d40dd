"""Asking every host of a run, each on its own, by the way on which a run starts its ranks."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from pcode.check import meeting, probe
from pcode.check.running import Done, mpirun_together, run_all
from pcode.config import Config
from pcode.launch import Host
from pcode.launch.environment import derived_port
from pcode.launch.mpirun import interpreters
from pcode.launch.options import Launch

DISTRIBUTION = "choco-sgd"
# A program that every Python runs, to ask for its version where the probe fails.
_VERSION = "import sys; print('pcode-version:%d.%d.%d' % sys.version_info[:3])"
_VERSION_MARK = "pcode-version:"
_PYTHON_ERROR = re.compile(r"^\w+Error: ", re.MULTILINE)
# A first connection by ssh takes seconds where names are looked up slowly.
_SHORTEST_LIMIT_SECONDS, _LONGEST_LIMIT_SECONDS = 10.0, 30.0
_MEETING_SECONDS = 10.0
_TRIALS = 3
_HERE = "this machine"


@dataclass(frozen=True)
class Site:
    """A host, as the user calls it, and the ranks that it takes."""

    name: str
    ranks: Sequence[int]


@dataclass(frozen=True)
class Answer:
    """What a host has said of itself, or why it has not.

    Attributes:
        facts: see pcode.check.probe; None: there are none.
        failure: the reason.
    """

    site: Site
    facts: dict[str, Any] | None
    failure: str | None = None


def sites(hosts: Sequence[Host], num_ranks: int) -> list[Site]:
    """The hosts of a run, rank after rank onto host after host; without any, this machine."""
    if not hosts:
        return [Site(_HERE, range(num_ranks))]
    found, first = [], 0
    for host in hosts:
        end = min(first + host.slots, num_ranks)
        found.append(Site(host.name, range(first, end)))
        first = end
    return found


def divided(places: Sequence[Site], num_parts: int) -> list[list[str]]:
    """The hosts of each node whose processes, so many of them, lie on several."""
    names = [site.name for site in places for _ in site.ranks]
    nodes = (names[first : first + num_parts] for first in range(0, len(names), num_parts))
    return [sorted(set(node)) for node in nodes if len(set(node)) > 1]


def requirements() -> list[Requirement] | None:
    """What this program needs to be installed; None: its own installation does not say."""
    try:
        texts = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return None
    found = [Requirement(text) for text in texts]
    return [need for need in found if need.marker is None or need.marker.evaluate({"extra": ""})]


def settings(config: Config, script: Path) -> str:
    """What the probe is to look for; relative paths are those of the user's folder."""
    return json.dumps(
        {
            "script": os.path.abspath(script),
            "folder": os.path.abspath(config.launch.work_dir or "."),
            "data_dir": config.data.data_dir,
            "checkpoint": config.watch.checkpoint,
            "packages": [need.name for need in requirements() or ()],
        }
    )


def limit_seconds(launch: Launch) -> float:
    """How long a host may take to answer."""
    return min(_LONGEST_LIMIT_SECONDS, max(_SHORTEST_LIMIT_SECONDS, launch.time_limit_seconds))


def ask_hosts(
    launch: Launch,
    hosts: Sequence[Host],
    asked: str,
    remote: bool,
    note: Callable[[str], None],
) -> list[Answer]:
    """Ask all hosts at the same time, each through an mpirun of its own.

    Args:
        hosts: those of the hostfile; none: this machine.
        asked: the probe's settings.
        remote: some of the hosts are other machines.
        note: is told of what is no obstacle.
    """
    places, limit = sites(hosts, launch.num_processes), limit_seconds(launch)
    starts = [_interpreter(launch, [host], remote) for host in hosts or (None,)]
    source = Path(probe.__file__).read_text(encoding="utf-8")
    done = mpirun_together([[*start, "-c", source, asked] for start in starts], limit, note)
    answers = [_answer(place, end, limit) for place, end in zip(places, done, strict=True)]
    # Another Python may not even read the probe: it is asked for its version alone.
    mute = [index for index, end in enumerate(done) if _PYTHON_ERROR.search(end.errors)]
    again = mpirun_together([[*starts[index], "-c", _VERSION] for index in mute], limit, note)
    for index, end in zip(mute, again, strict=True):
        version = _marked(end.output, _VERSION_MARK)
        if version is not None:
            failure = f"Python {version} cannot run this program; --python_path names another"
            answers[index] = dataclasses.replace(answers[index], failure=failure)
    return answers


def ask_here(command: Sequence[str], launch: Launch, asked: str) -> Answer:
    """Ask this machine without mpirun.

    Args:
        command: what starts the interpreter.
    """
    source = Path(probe.__file__).read_text(encoding="utf-8")
    limit = limit_seconds(launch)
    (done,) = run_all([[*command, "-c", source, asked]], limit)
    return _answer(Site(_HERE, range(launch.num_processes)), done, limit)


def meet(
    launch: Launch,
    hosts: Sequence[Host],
    answers: Sequence[Answer],
    note: Callable[[str], None],
) -> dict[tuple[int, int], str] | str:
    """Let every host connect to every other.

    Args:
        note: is told of what is no obstacle.

    Returns:
        (who, whom) by their places in the hostfile -> the reason, for those that did not succeed;
        or why nothing of it is known.
    """
    source = Path(meeting.__file__).read_text(encoding="utf-8")
    one_each = _of_ranks(launch, len(hosts))
    start = interpreters(one_each, [dataclasses.replace(host, slots=1) for host in hosts], True)
    addresses = [list((answer.facts or {})["addresses"].values()) for answer in answers]
    limit = min(_MEETING_SECONDS, launch.time_limit_seconds)
    # Where a firewall leaves only some ports to MPI, the first of these.
    opened = os.environ.get("OMPI_MCA_btl_tcp_port_min_v4", "")  # noqa: SIM112  # MPI's name
    for trial in range(_TRIALS):
        port = derived_port(f"{os.getpid()} {trial}")
        if opened.isdecimal():
            port = int(opened) + trial
        asked = {"addresses": addresses, "port": port, "limit_seconds": limit}
        given = limit_seconds(launch) + limit
        (done,) = mpirun_together([[*start, "-c", source, json.dumps(asked)]], given, note)
        if "Address already in use" not in done.errors:
            break
    found = [json.loads(line) for line in _all_marked(done.output, meeting.MARK)]
    if len(found) < len(hosts):
        return done.reason(given)
    return {
        (told["host"], int(other)): reason
        for told in found
        for other, reason in told["failed"].items()
    }


def _of_ranks(launch: Launch, num_ranks: int) -> Launch:
    """The flags with so many ranks, and without a folder to start them in."""
    return dataclasses.replace(launch, n_mpi_process=num_ranks, n_sub_process=1, work_dir=None)


def _interpreter(launch: Launch, hosts: Sequence[Host | None], remote: bool) -> list[str]:
    """The start of one interpreter, wherever the ranks' folder is: the probe looks for that."""
    return interpreters(_of_ranks(launch, 1), [host for host in hosts if host is not None], remote)


def _answer(site: Site, done: Done, limit: float) -> Answer:
    text = _marked(done.output, probe.MARK)
    if text is None:
        return Answer(site, None, done.reason(limit))
    return Answer(site, json.loads(text))


def _all_marked(output: str, mark: str) -> list[str]:
    """What follows the mark, of the lines that begin with it."""
    return [line.removeprefix(mark) for line in output.splitlines() if line.startswith(mark)]


def _marked(output: str, mark: str) -> str | None:
    return next(iter(_all_marked(output, mark)), None)
