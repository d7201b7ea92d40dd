"""The lines that a check prints: what is wrong with a host, and with hosts beside each other."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pcode.check.hosts import CheckedHost, requirements
from pcode.config import Config
from pcode.config.options import data_dir_unread
from pcode.utils.devices import threads_per_node
from pcode.utils.errors import UserError

WRONG_STATUS = 1
_WRONG = "WRONG"
_OPEN_MPI = re.compile(r"Open MPI\D*([0-9]+\.[0-9]+)")

Facts = dict[str, Any]


class Report:
    """Prints a line for each thing that was looked at, as soon as it is known."""

    def __init__(self) -> None:
        self.num_wrong = 0  # lines that say what has to be changed before a run

    def ok(self, text: str) -> None:
        self.repeat(f"{'ok':<5}  {text}")

    def note(self, text: str) -> None:
        """Print what is no obstacle, but to be known."""
        self.repeat(f"{'note':<5}  {text}")

    def wrong(self, text: str) -> None:
        self.repeat(f"{_WRONG}  {text}")

    def repeat(self, line: str) -> None:
        """Print a line of another report."""
        self.num_wrong += line.startswith(_WRONG)
        print(line, flush=True)

    def status(self) -> int:
        """Print the last line; return 0 where nothing is wrong, else WRONG_STATUS."""
        if self.num_wrong == 0:
            self.repeat("nothing is wrong")
            return 0
        things = "1 thing is" if self.num_wrong == 1 else f"{self.num_wrong} things are"
        self.repeat(f"{things} wrong")
        return WRONG_STATUS


def report_hosts(
    report: Report, hosts: Sequence[CheckedHost], config: Config, mpirun: str | None = None
) -> None:
    """Print a line for each host and each thing wrong there; `mpirun` is its version, if any."""
    answered = {host.name: host.facts for host in hosts if host.facts is not None}
    differences = _differences(answered)
    threads = set()
    for host in hosts:
        if (facts := host.facts) is None:
            report.wrong(f"{host.name}: {host.failure}")
            continue
        num_threads = _num_threads(facts, len(host.ranks), config)
        if host.ranks:
            threads.add(num_threads)
        wrong = [
            *_missing_files(facts, config),
            *_packages(facts),
            *([num_threads] if isinstance(num_threads, str) else []),
            *(_mpi(facts, mpirun) if config.launch.backend == "mpi" else []),
            *(_gloo(facts, config) if len(hosts) > 1 else []),
            *_gpus(facts, host.ranks, config),
            *differences.get(host.name, ()),
        ]
        say = report.note if wrong else report.ok
        say(f"{host.name}: {_summary(facts, host.ranks, num_threads)}")
        for text in wrong:
            report.wrong(f"{host.name}: {text}")
    if requirements() is None:
        report.note("packages are not looked at: that of this program itself is not installed")
    if len(threads) > 1:
        report.note("threads of a rank differ between hosts; --num_threads makes them equal")


def _num_threads(facts: Facts, num_ranks: int, config: Config) -> int | str:
    """Return how many a rank has there, or why it has none."""
    asked = config.launch.num_threads
    try:
        return threads_per_node(asked, max(1, num_ranks), facts["variables"], facts["cores"])
    except UserError as error:
        return str(error)


def _summary(facts: Facts, ranks: Sequence[int], num_threads: int | str) -> str:
    packages, library, free = facts["packages"], facts["mpi"]["version"], facts["memory_free_bytes"]
    placed = f"ranks {ranks[0]} to {ranks[-1]}" if len(ranks) > 1 else ""
    parts = [
        placed or (f"rank {ranks[0]}" if ranks else "no rank"),
        f"Python {facts['python']}",
        *(f"{name} {packages[name]}" for name in ("torch", "numpy") if packages.get(name)),
        *([library] if library else []),
        f"{facts['cores']} cores",
    ]
    if ranks and isinstance(num_threads, int):
        parts.append(f"{num_threads} thread{'s' * (num_threads > 1)} a rank")
    if free is not None:
        parts.append(f"{free / 2**30:.1f} GiB free")
    gpus = Counter[str](facts["gpus"])
    parts += [f"{count} x {gpu}" for gpu, count in gpus.items()] or ["no GPU"]
    return ", ".join(parts)


def _missing_files(facts: Facts, config: Config) -> Iterator[str]:
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


def _packages(facts: Facts) -> Iterator[str]:
    installed, absent = facts["packages"], []
    for need in requirements() or ():
        version = installed[need.name]
        if version is None:
            absent.append(need.name)
        elif not need.specifier.contains(version, prereleases=True):
            yield f"{need.name} {version}: {need.specifier} is needed"
    if absent:
        yield f"not installed, or damaged: {', '.join(absent)} (for {facts['executable']})"


def _mpi(facts: Facts, mpirun: str | None) -> Iterator[str]:
    library, error = facts["mpi"]["version"], facts["mpi"]["error"]
    if library is None:
        if facts["packages"].get("mpi4py", "") is not None:  # otherwise that is what is missing
            yield f"mpi4py does not load an MPI library: {error}"
        return
    ours, theirs = (_OPEN_MPI.search(text or "") for text in (mpirun, library))
    if ours is not None and (theirs is None or theirs[1] != ours[1]):
        yield f"mpi4py loads {library}, but {mpirun} starts the ranks: --mpi_path names another"


def _gloo(facts: Facts, config: Config) -> Iterator[str]:
    address, interface = facts["own_address"], "GLOO_SOCKET_IFNAME"
    is_chosen = interface in facts["variables"] or f"{interface}=" in (config.launch.mpi_env or "")
    is_loopback = address is None or address.startswith("127.")
    if config.launch.backend == "gloo" and is_loopback and not is_chosen:
        stands_for = f"stands for {address}" if address else "is not known"
        yield (
            f"its own name, {facts['hostname']}, {stands_for} there, so gloo would listen where no "
            f"other host comes: correct its /etc/hosts, or --mpi_env {interface}="
            f"{next(iter(facts['addresses']), 'INTERFACE')}"
        )


def _gpus(facts: Facts, ranks: Sequence[int], config: Config) -> Iterator[str]:
    launch, gpus = config.launch, facts["gpus"]
    wanted = {launch.world[rank % len(launch.world)] for rank in ranks}
    missing = sorted(gpu for gpu in wanted if gpu >= len(gpus))
    if launch.on_cuda and missing:
        ids = ", ".join(map(str, missing))
        yield f"--on_cuda True, --world: no GPU {ids} there (it has {len(gpus)})"


def _differences(hosts: dict[str, Facts]) -> dict[str, list[str]]:
    """Return host -> what it has otherwise than most of them."""
    values = {name: _compared(facts) for name, facts in hosts.items()}
    found: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for value in values.values() for key in value):
        have = {name: value.get(key) for name, value in values.items()}
        counts = Counter(value for value in have.values() if value is not None)
        if len(counts) < 2:
            continue
        (usual, times), *_ = counts.most_common(1)
        if len(hosts) == 2:
            whose = f"{next(name for name in have if have[name] == usual)} has"
        else:
            whose = "the others have" if times == counts.total() - 1 else "most have"
        for name, value in have.items():
            if value not in (None, usual):
                found.setdefault(name, []).append(f"{key} {value}, {whose} {usual}")
    return found


def _compared(facts: Facts) -> dict[str, str | None]:
    """Return what has to be the same on all hosts."""
    digest = facts["sources"]["digest"] if facts["script"] else None
    return {
        "Python": facts["python"],
        "processor": facts["machine"],
        **facts["packages"],
        "MPI library": facts["mpi"]["version"],
        "code of pcode and run.py, digest": None if digest is None else digest[:12],
    }
