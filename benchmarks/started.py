"""What the benchmarks of endurance share: run.py started, watched from outside, and ended."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import MappingProxyType, TracebackType

import psutil
import torch

from pcode.training.checkpoint import node_file, read_manifest, saved_steps
from pcode.utils.files import TEMPORARY

RUN = Path(__file__).parents[1] / "run.py"
# Every process of a run inherits it, also one whose arguments say nothing.
MARK = "BENCHMARK_RUN"
LOOK_SECONDS = 0.01


class LimitExceededError(Exception):
    """What was waited for did not happen in time."""


def end_in_good_order() -> None:
    """From now on SIGTERM, too, ends the runs that were started."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def lives(process: psutil.Process) -> bool:
    """Whether it has not ended; one that nobody has collected yet has."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def processes_of(mark: str) -> list[psutil.Process]:
    """Those that live of which MARK has this value, wherever they were started from."""
    return [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get(MARK) == mark and lives(process)
    ]


def kill_all(mark: str) -> None:
    """Kill `processes_of(mark)` until there are none."""
    while left := processes_of(mark):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(LOOK_SECONDS)


class Started:
    """A run of run.py with all its processes, which are killed at the end of the `with` block.

    Args:
        place: a folder of its own; what the run prints goes into place/NAME.txt.
        name: another one for each run in the same place.
        flags: of run.py.
        nice: added to the niceness.
        variables: added to the environment.
    """

    def __init__(
        self,
        place: Path,
        name: str,
        flags: Sequence[str],
        nice: int = 0,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self._mark, self._printed = f"{place.resolve()}/{name}", place / f"{name}.txt"
        common = {"OMP_NUM_THREADS": "1", MARK: self._mark}
        with self._printed.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(RUN), *flags],
                env={**os.environ, **common, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        if nice:
            psutil.Process(self.process.pid).nice(nice)  # long before it starts others

    def __enter__(self) -> Started:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        kill_all(self._mark)
        self.process.wait()

    def processes(self) -> list[psutil.Process]:
        """Those of the run that live, wherever they were started from."""
        return processes_of(self._mark)

    def ranks(self) -> dict[int, psutil.Process]:
        """The nodes under mpirun, by rank."""
        found = {}
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                rank = process.environ().get("OMPI_COMM_WORLD_RANK")
                if rank is not None:
                    found[int(rank)] = process
        return found

    def printed(self) -> str:
        """What it has printed so far, both streams."""
        return self._printed.read_text(encoding="utf-8", errors="replace")

    def wait_for(
        self,
        happened: Callable[[], bool],
        what: str,
        limit_seconds: float,
        every_seconds: float = LOOK_SECONDS,
    ) -> None:
        """Look again and again until it has happened, or the run has ended.

        Raises:
            LimitExceededError: neither did in time.
        """
        deadline = time.monotonic() + limit_seconds
        while not happened() and self.process.poll() is None:
            if time.monotonic() > deadline:
                raise LimitExceededError(f"{what}: not within {limit_seconds:g} s")
            time.sleep(every_seconds)

    def status(self, limit_seconds: float) -> int:
        """The exit status of the process that was started.

        Raises:
            LimitExceededError: it does not end in time.
        """
        try:
            return self.process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            raise LimitExceededError(f"still runs after {limit_seconds:g} s") from None


def folder_of_run(checkpoint: Path) -> Path | None:
    """The folder of the one run below `--checkpoint`, once it holds its configuration."""
    found = list(checkpoint.glob("*/*/*/*/config.yaml"))
    return found[0].parent if found else None


def check_checkpoints(run: Path) -> int | None:
    """Load every checkpoint that a run's folder says it has; the step of the last one.

    Raises:
        ValueError: one is not whole.
    """
    steps = saved_steps(run)
    for step in steps:
        manifest = read_manifest(run, step)
        for folder, digest in zip(manifest.folders, manifest.sha256, strict=True):
            file = node_file(run, folder, step)
            content = file.read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise ValueError(f"{file} is not what {step}.json says")
            try:
                torch.load(BytesIO(content), weights_only=True)
            except Exception as error:  # a damaged file may raise anything
                raise ValueError(f"{file} does not load: {error}") from error
    return steps[-1] if steps else None


def leftovers(run: Path) -> list[str]:
    """Files in a run's folder that their writers did not finish."""
    return sorted(
        str(file.relative_to(run)) for file in run.rglob(f"{TEMPORARY}*") if file.is_file()
    )
