"""Whether a run grows: memory, threads, descriptors and files, while it trains for an hour.

    python benchmarks/long_run.py [--minutes 60] [--output FILE.json]

ResNet-8 on digits, sign-CHOCO, evaluation and checkpoint after every epoch, at once: 8 simulated
nodes in one process, and 2 nodes under mpirun; one thread each, niceness 10. After the time both
get SIGTERM and have to save and end with status 75, and their last checkpoints have to load.

Every 20 s, of each process: resident memory (RSS) and its proportional share (PSS), threads and
open descriptors, the least of five looks .1 s apart, as a file that is being written is no growth;
of each run's folder: files and bytes, the logs (log.jsonl, tensorboard/), which grow by lines,
apart. Checkpoints come and go within seconds: the files that stay are those that were there at
the sample before as well.

The first tenth of the samples is a warm-up. After it,

- RSS may grow by less than 2 % an hour, by a straight line through the samples, and by one through
  their second half;
- the most threads, descriptors and files that stay of the second half may not exceed those of the
  first.

In less than 20 minutes 2 % an hour is less than what memory moves up and down: it is reported
without a verdict. Exit status 1 if something grew or a run did not end as it has to.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from harness import keep
from pcode.utils.errors import PREEMPTED
from started import (
    LimitExceededError,
    Started,
    check_checkpoints,
    end_in_good_order,
    folder_of_run,
)

RUNS = {
    "sim, 8 nodes": ("--backend", "sim", "--n_mpi_process", "8"),
    "mpi, 2 nodes": ("--backend", "mpi", "--n_mpi_process", "2"),
}
FLAGS = ("--arch", "resnet8", "--num_epochs", "1000000")
INTERVAL_SECONDS = 20.0
LOOKS, LOOK_SECONDS = 5, 0.1
WARM_UP = 0.1
GROWTH_PER_HOUR = 0.02
JUDGED_MINUTES = 20.0
LIMIT_SECONDS = 180.0
LOGS = ("log.jsonl", "events.out.tfevents")

JUDGED = ("threads", "descriptors", "files_staying")

# What is measured of one process or folder: name -> value.
Sample = dict[str, float]
# A name for what is measured -> its samples, in order.
Series = dict[str, list[Sample]]


def look_at_process(process: psutil.Process) -> Sample:
    memory = process.memory_full_info()
    return {
        "rss": memory.rss,
        "pss": memory.pss,
        "threads": process.num_threads(),
        "descriptors": process.num_fds(),
    }


class Files:
    """The files in the folder of a run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before: set[Path] = set()

    def look(self) -> Sample:
        sizes = {}
        for path in self._folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                if path.is_file():
                    sizes[path] = path.stat().st_size
        logs = sum(size for path, size in sizes.items() if path.name.startswith(LOGS))
        staying, self._before = self._before & sizes.keys(), set(sizes)
        return {
            "files": len(sizes),
            "files_staying": len(staying),
            "bytes": sum(sizes.values()) - logs,
            "log_bytes": logs,
        }


def measured(name: str, run: Started, place: Path) -> dict[str, psutil.Process | Files]:
    """The processes and the folder of a run that trains, named."""
    ranks = run.ranks()
    found: dict[str, psutil.Process | Files] = {f"{name}, rank {r}": p for r, p in ranks.items()}
    if ranks:
        found[f"{name}, mpirun"] = ranks[0].parent()
    found[f"{name}, {'launcher' if ranks else 'all'}"] = psutil.Process(run.process.pid)
    folder = folder_of_run(place)
    assert folder is not None, "it has reported an epoch"
    return {**found, f"{name}, folder": Files(folder)}


def take_sample(what: psutil.Process | Files) -> Sample:
    """Memory and files as they are; of a process's counts the least of some looks."""
    if isinstance(what, Files):
        return what.look()
    first = look_at_process(what)
    counts = ("threads", "descriptors")
    for _ in range(LOOKS - 1):
        time.sleep(LOOK_SECONDS)
        look = look_at_process(what)
        first |= {name: min(first[name], look[name]) for name in counts}
    return first


def growth_per_hour(seconds: Sequence[float], values: Sequence[float]) -> float:
    """Of the straight line through the samples, as a part of their mean."""
    slope = np.polyfit(seconds, values, 1)[0]
    return float(3600 * slope / np.mean(values))


def judge(name: str, seconds: list[float], samples: list[Sample], judged: bool) -> dict[str, Any]:
    """The figures of one process or folder; "grew" lists what did.

    Args:
        seconds: of the samples, those of the warm-up left out.
        judged: whether memory is.
    """
    half = len(samples) // 2
    figures: dict[str, Any] = {"name": name, "grew": []}
    for quantity in samples[0]:
        values = [sample[quantity] for sample in samples]
        if quantity in ("rss", "pss"):
            whole = growth_per_hour(seconds, values)
            later = growth_per_hour(seconds[half:], values[half:])
            figures[quantity] = {
                "mean": float(np.mean(values)),
                "growth_per_hour": whole,
                "growth_per_hour_of_second_half": later,
            }
            if quantity == "rss" and judged and max(whole, later) >= GROWTH_PER_HOUR:
                figures["grew"].append(quantity)
        else:
            first, second = max(values[:half]), max(values[half:])
            figures[quantity] = {"first_half": first, "second_half": second}
            if second > first and quantity in JUDGED:
                figures["grew"].append(quantity)
    return figures


def cells(figures: dict[str, Any]) -> list[str]:
    """One row of the table."""
    row = [figures["name"]]
    memory = figures.get("rss")
    if memory is None:
        row += ["", "", "", ""]
    else:
        row += [f"{memory['mean'] / 1e6:.1f}", f"{figures['pss']['mean'] / 1e6:.1f}"]
        growths = (memory["growth_per_hour"], memory["growth_per_hour_of_second_half"])
        row += [f"{100 * growth:+.2f}" for growth in growths]
    for quantity in (*JUDGED, "files", "bytes", "log_bytes"):
        highest = figures.get(quantity)
        row.append(
            f"{highest['first_half']:,.0f} / {highest['second_half']:,.0f}" if highest else ""
        )
    return [*row, ", ".join(figures["grew"]) or "nothing"]


def end(name: str, run: Started, place: Path) -> list[str]:
    """SIGTERM; what of the run's end is not as it has to be."""
    run.process.send_signal(signal.SIGTERM)
    try:
        status = run.status(LIMIT_SECONDS)
    except LimitExceededError as error:
        return [f"{name}: after SIGTERM it {error}"]
    found = [] if status == PREEMPTED else [f"{name}: status {status}, expected {PREEMPTED}"]
    if left := run.processes():
        found.append(f"{name}: left {left}")
    folder = folder_of_run(place)
    assert folder is not None, "it has reported an epoch"
    try:
        step = check_checkpoints(folder)
    except (ValueError, OSError) as error:
        return [*found, f"{name}: {error}"]
    print(f"{name}: status {status}, last checkpoint after {step} steps", flush=True)
    return found if step is not None else [*found, f"{name}: no checkpoint"]


def watch(minutes: float, place: Path) -> tuple[list[float], Series, list[str]]:
    """Run for so long: seconds and samples, and what was wrong with the runs."""
    seconds: list[float] = []
    series: Series = {}
    with ExitStack() as stack:
        runs = {}
        for number, (name, flags) in enumerate(RUNS.items()):
            folder = place / str(number)
            all_flags = ("--checkpoint", str(folder), *flags, *FLAGS)
            run = Started(place, str(number) + "-run", all_flags, nice=10)
            runs[name] = (stack.enter_context(run), folder)
        things: dict[str, psutil.Process | Files] = {}
        for name, (run, folder) in runs.items():
            run.wait_for(lambda run=run: "epoch   1:" in run.printed(), name, LIMIT_SECONDS)  # type: ignore[misc]
            if run.process.poll() is not None:
                return seconds, series, [f"{name}: ended at the start: {run.printed()[-500:]}"]
            things |= measured(name, run, folder)
        begin = time.monotonic()
        while (now := time.monotonic() - begin) < 60 * minutes:
            try:
                samples = {name: take_sample(what) for name, what in things.items()}
            except psutil.NoSuchProcess as error:
                said = "\n".join(run.printed()[-500:] for run, _ in runs.values())
                return seconds, series, [f"after {now:.0f} s: {error}", said]
            seconds.append(now)
            for name, sample in samples.items():
                series.setdefault(name, []).append(sample)
            next_one = begin + INTERVAL_SECONDS * len(seconds)
            time.sleep(max(0.0, next_one - time.monotonic()))
        wrong = []
        for name, (run, folder) in runs.items():
            print(run.printed().splitlines()[-1], flush=True)
            wrong += end(name, run, folder)
    return seconds, series, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    end_in_good_order()
    with tempfile.TemporaryDirectory(prefix="long_run-") as folder:
        seconds, series, wrong = watch(arguments.minutes, Path(folder))
    begin = int(WARM_UP * len(seconds))
    judged = arguments.minutes >= JUDGED_MINUTES
    rows = [
        judge(name, seconds[begin:], samples[begin:], judged)
        for name, samples in series.items()
        if len(samples[begin:]) >= 4
    ]
    print(
        "| | RSS (MB) | PSS (MB) | RSS an hour (%) | in the second half | threads | descriptors "
        "| files that stay | files | bytes | bytes of logs | grew |"
    )
    print("|---|" + 10 * "---:|" + "---|")
    for row in rows:
        print(f"| {' | '.join(cells(row))} |")
    if not judged:
        print(f"memory is judged from {JUDGED_MINUTES:g} minutes on")
    print(*wrong, sep="\n", end="\n" if wrong else "")
    keep(
        arguments.output,
        {"minutes": arguments.minutes, "wrong": wrong, "judged": rows}
        | {"seconds": seconds, "samples": series},
    )
    return 1 if wrong or not rows or any(row["grew"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
