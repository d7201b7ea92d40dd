"""What is wrong with a host, for a run, and with hosts beside each other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pcode.check.hosts import Answer, requirements
from pcode.check.report import Report
from pcode.config import Config
from pcode.config.options import data_dir_unread
from pcode.utils.devices import threads_per_node
from pcode.utils.errors import UserError

_OPEN_MPI = re.compile(r"Open MPI\D*([0-9]+\.[0-9]+)")


def judge_hosts(
    report: Report, answers: Sequence[Answer], config: Config, mpirun: str | None = None
) -> None:
    """A line for each host that is as the run needs it, and for each thing that is not.

    Args:
        mpirun: what it says of its version, where it starts the ranks.
    """
    told = [answer for answer in answers if answer.facts is not None]
    several = len(answers) > 1
    apart = _differences(told)
    for answer in answers:
        name = answer.site.name
        if answer.facts is None:
            report.wrong(f"{name}: {answer.failure}")
            continue
        wrong = [*_faults(answer.facts, answer, config, several, mpirun), *apart.get(name, ())]
        say = report.note if wrong else report.ok
        say(f"{name}: {_summary(answer.facts, answer, config)}")
        for text in wrong:
            report.wrong(f"{name}: {text}")
    if requirements() is None:
        report.note("packages are not looked at: that of this program itself is not installed")
    threads = {
        _threads(answer.facts, answer, config)
        for answer in told
        if answer.facts is not None and answer.site.ranks
    }
    if len(threads) > 1:
        report.note("threads of a rank differ between hosts; --num_threads makes them equal")


def _threads(facts: dict[str, Any], answer: Answer, config: Config) -> int | str:
    """How many a rank has there, or why it has none."""
    try:
        return threads_per_node(
            config.launch.num_threads,
            max(1, len(answer.site.ranks)),
            facts["variables"],
            facts["cores"],
        )
    except UserError as error:
        return str(error)


def _summary(facts: dict[str, Any], answer: Answer, config: Config) -> str:
    """What the host has, in a line."""
    ranks, packages = answer.site.ranks, facts["packages"]
    parts = [
        f"ranks {ranks[0]} to {ranks[-1]}"
        if len(ranks) > 1
        else f"rank {ranks[0]}"
        if ranks
        else "no rank",
        f"Python {facts['python']}",
        *(f"{name} {packages[name]}" for name in ("torch", "numpy") if packages.get(name)),
        *([facts["mpi"]["version"]] if facts["mpi"]["version"] else ()),
        f"{facts['cores']} cores",
    ]
    threads = _threads(facts, answer, config)
    if ranks and isinstance(threads, int):
        parts.append(f"{threads} thread{'s' * (threads > 1)} a rank")
    if facts["memory_free_bytes"] is not None:
        parts.append(f"{facts['memory_free_bytes'] / 2**30:.1f} GiB free")
    parts += [f"{count} x {gpu}" for gpu, count in Counter(facts["gpus"]).items()] or ["no GPU"]
    return ", ".join(parts)


def _faults(
    facts: dict[str, Any], answer: Answer, config: Config, several: bool, mpirun: str | None
) -> Iterator[str]:
    """What a run would fail on."""
    launch = config.launch
    yield from _missing_files(facts, config)
    yield from _packages(facts)
    threads = _threads(facts, answer, config)
    if isinstance(threads, str):
        yield threads
    if launch.backend == "mpi":
        yield from _mpi(facts, mpirun)
    own, interface = facts["own_address"], "GLOO_SOCKET_IFNAME"
    chosen = interface in facts["variables"] or f"{interface}=" in (launch.mpi_env or "")
    if several and launch.backend == "gloo" and not chosen and (own or "127.").startswith("127."):
        stands_for = f"stands for {own}" if own else "is not known"
        yield (
            f"its own name, {facts['hostname']}, {stands_for} there, so gloo would listen where no "
            f"other host comes: correct its /etc/hosts, or --mpi_env {interface}="
            f"{next(iter(facts['addresses']), 'INTERFACE')}"
        )
    if launch.on_cuda:
        wanted = {launch.world[rank % len(launch.world)] for rank in answer.site.ranks}
        missing = sorted(gpu for gpu in wanted if gpu >= len(facts["gpus"]))
        if missing:
            ids = ", ".join(map(str, missing))
            yield f"--on_cuda True, --world: no GPU {ids} there (it has {len(facts['gpus'])})"


def _missing_files(facts: dict[str, Any], config: Config) -> Iterator[str]:
    if facts["missing_folder"] is not None:
        yield f"no folder {facts['missing_folder']} there, for ranks to start in; --work_dir"
    if not facts["script"]:
        yield "run.py is not there: it has to lie at the same place on every host"
    elif facts["sources"]["path"] is None:
        yield "the package pcode is neither beside run.py nor installed there"
    if not facts["checkpoint"]:
        yield f"--checkpoint {config.watch.checkpoint}: cannot be written to there"
    flags = config.flat()
    if not (facts["data_dir"] or flags["download"] or data_dir_unread(flags)):
        yield f"--data_dir {config.data.data_dir}: no such folder there"


def _packages(facts: dict[str, Any]) -> Iterator[str]:
    installed, absent = facts["packages"], []
    for need in requirements() or ():
        version = installed[need.name]
        if version is None:
            absent.append(need.name)
        elif not need.specifier.contains(version, prereleases=True):
            yield f"{need.name} {version}: {need.specifier} is needed"
    if absent:
        yield f"not installed, or damaged: {', '.join(absent)} (for {facts['executable']})"


def _mpi(facts: dict[str, Any], mpirun: str | None) -> Iterator[str]:
    library, error = facts["mpi"]["version"], facts["mpi"]["error"]
    if library is None:
        if facts["packages"].get("mpi4py", "") is not None:  # that it is missing is said
            yield f"mpi4py does not load an MPI library: {error}"
        return
    ours, theirs = (_OPEN_MPI.search(text or "") for text in (mpirun, library))
    if ours is not None and (theirs is None or theirs[1] != ours[1]):
        yield f"mpi4py loads {library}, but {mpirun} starts the ranks: --mpi_path names another"


def _differences(answers: Sequence[Answer]) -> dict[str, list[str]]:
    """Host -> what it has otherwise than most of them."""
    values = [_compared(answer.facts or {}) for answer in answers]
    found: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for value in values for key in value):
        have = [value.get(key) for value in values]
        counts = Counter(value for value in have if value is not None)
        if len(counts) < 2:
            continue
        (usual, times), *_ = counts.most_common(1)
        if len(answers) == 2:
            whose = f"{answers[have.index(usual)].site.name} has"
        else:
            whose = "the others have" if times == sum(counts.values()) - 1 else "most have"
        for answer, value in zip(answers, have, strict=True):
            if value not in (None, usual):
                found.setdefault(answer.site.name, []).append(f"{key} {value}, {whose} {usual}")
    return found


def _compared(facts: dict[str, Any]) -> dict[str, str | None]:
    """What has to be the same on all hosts."""
    digest, library = facts["sources"]["digest"], facts["mpi"]["version"]
    if not facts["script"]:  # which is said
        digest = None
    return {
        "Python": facts["python"],
        "processor": facts["machine"],
        **facts["packages"],
        "MPI library": library,
        "code of pcode and run.py, digest": None if digest is None else digest[:12],
    }
