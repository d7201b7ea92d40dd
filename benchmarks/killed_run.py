"""One run that is killed and resumed, for kills.py: what happens to it, and what is checked."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pcode.communication.injection import VARIABLE
from started import (
    LOOK_SECONDS,
    Started,
    check_checkpoints,
    folder_of_run,
    leftovers,
    lives,
)
from tests.run.runs import draw_images

NODES, EPOCHS = 3, 8
COMMON = (
    *("--backend", "mpi", "--n_mpi_process", str(NODES), "--graph_topology", "ring"),
    *("--optimizer", "parallel_choco", "--comm_op", "sign", "--num_epochs", str(EPOCHS)),
)
DIGITS = ("--arch", "mlp", "--drop_rate", "0.1", "--lr", "0.02", "--batch_size", "16")
IMAGES = (
    *("--data", "imagenet", "--num_workers", "1", "--arch", "logistic_regression"),
    *("--lr", "1e-5", "--batch_size", "4"),
)
IMAGES_OF_A_CLASS = 30
GONE_SECONDS = 15.0
# Far more than a start, or a whole run, takes.
LIMIT_SECONDS = 180.0
EPOCH_LINE = re.compile(r"^epoch +(\d+)", re.MULTILINE)


class CheckError(Exception):
    """A check failed; the message says what was seen."""


@dataclass(frozen=True)
class Reference:
    """The run without failures.

    Attributes:
        flags: with which it and the runs that are compared with it begin.
        sha256: of the nodes' parameters.
        num_steps: of each node.
        moments: seconds at which its configuration was there, and after each epoch's line.
    """

    flags: tuple[str, ...]
    sha256: list[str]
    num_steps: int
    moments: list[float]


@dataclass(frozen=True)
class Kill:
    """One kill to come: of a rank by itself, or from outside.

    Attributes:
        target: "rank", "loader", "launcher" or "mpirun".
        rank: where a rank, or the process that loads its data, is the target.
        phase: where the rank kills itself, or None: from outside, at a moment.
        step: in which it does.
        epochs: the moment is `seconds` after the line of so many epochs; 0: after the beginning.
    """

    target: str
    rank: int | None = None
    phase: str | None = None
    step: int | None = None
    epochs: int = 0
    seconds: float = 0.0

    @property
    def kind(self) -> str:
        return f"{self.target}, any moment" if self.phase is None else f"rank, {self.phase}"

    def __str__(self) -> str:
        name = self.target if self.rank is None else f"{self.target} {self.rank}"
        if self.phase is not None:
            return f"{name}, {self.phase} of step {self.step}"
        return f"{name}, {self.seconds:.2f} s after epoch {self.epochs}"


@dataclass(frozen=True)
class Outcome:
    """What a kill led to.

    Attributes:
        late: the run had finished.
        seconds: from the kill until all processes were gone; None where there was none.
        status: of the launcher.
        checkpoint_step: the last checkpoint's; None: there was none yet.
        resumed_seconds: the second run's, from command to end.
        left_by_kill, left_at_end: unfinished files, which are no checkpoints.
    """

    late: bool
    seconds: float | None
    status: int
    checkpoint_step: int | None = None
    resumed_seconds: float | None = None
    left_by_kill: list[str] = dataclasses.field(default_factory=list)
    left_at_end: list[str] = dataclasses.field(default_factory=list)


def read_digests(folder: Path) -> list[str]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_bytes())
    digests: list[str] = content["parameters_sha256"]
    return digests


def num_lines(run: Started) -> int:
    """How many epochs it has reported."""
    return len(EPOCH_LINE.findall(run.printed()))


def flags_of_images(folder: Path) -> tuple[str, ...]:
    """Make images in a folder; the flags of a run that loads them."""
    draw_images(folder, IMAGES_OF_A_CLASS)
    return (*IMAGES, "--data_dir", str(folder / "data"))


def flags_in(place: Path, flags: tuple[str, ...]) -> tuple[str, ...]:
    return ("--checkpoint", str(place / "runs"), *COMMON, *flags)


def loader_of(rank: psutil.Process) -> psutil.Process | None:
    """The process that loads a rank's data, if there is one at the moment."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for server in rank.children():
            if any("multiprocessing.forkserver" in word for word in server.cmdline()):
                return next(iter(server.children()), None)
    return None


def named_semaphores() -> set[str]:
    return {file.name for file in Path("/dev/shm").glob("sem.*")}


def measure_reference(place: Path, flags: tuple[str, ...]) -> Reference:
    moments: list[float] = []
    with Started(place, "reference", flags_in(place, flags)) as run:
        run.wait_for(lambda: folder_of_run(place / "runs") is not None, "start", LIMIT_SECONDS)
        for epochs in range(EPOCHS + 1):
            run.wait_for(lambda least=epochs: num_lines(run) >= least, "training", LIMIT_SECONDS)  # type: ignore[misc]
            moments.append(time.monotonic())
        status = run.status(LIMIT_SECONDS)
        folder = folder_of_run(place / "runs")
        if status != 0 or folder is None:
            sys.exit(f"the run without failures ended with status {status}:\n{run.printed()}")
    num_steps = json.loads((folder / "summary.json").read_bytes())["num_steps"]
    if check_checkpoints(folder) is None:
        sys.exit("the run without failures has left no checkpoint")
    seconds = [moment - moments[0] for moment in moments]
    return Reference(flags, read_digests(folder), num_steps, seconds)


def strike(run: Started, kill: Kill, place: Path) -> float | None:
    """Kill, or wait until the rank has done it; when that was, or None: it came too late."""
    run.wait_for(lambda: len(run.ranks()) == NODES, "ranks", LIMIT_SECONDS, every_seconds=0.1)
    ranks = run.ranks()
    if kill.phase is not None:
        run.wait_for(
            lambda: not all(lives(rank) for rank in ranks.values()), str(kill), LIMIT_SECONDS
        )
        # The launcher's last act is to collect its ranks: its status says what ended them.
        return None if "results:" in run.printed() else time.monotonic()
    run.wait_for(lambda: folder_of_run(place / "runs") is not None, "start", LIMIT_SECONDS)
    run.wait_for(lambda: num_lines(run) >= kill.epochs, "training", LIMIT_SECONDS)
    if len(ranks) < NODES or run.process.poll() is not None:
        return None
    time.sleep(kill.seconds)
    victim: psutil.Process | None = psutil.Process(run.process.pid)
    if kill.target == "mpirun":
        # Where the run has ended meanwhile, the rank has no parent any more.
        victim = ranks[0].parent() if lives(ranks[0]) else None
    elif kill.target == "loader" and kill.rank is not None:
        # There is none between two epochs.
        run.wait_for(lambda: loader_of(ranks[kill.rank or 0]) is not None, "loader", LIMIT_SECONDS)
        victim = loader_of(ranks[kill.rank])
    elif kill.rank is not None:
        victim = ranks[kill.rank]
    if victim is None or not lives(victim):
        return None
    victim.kill()
    return time.monotonic()


def seconds_until_gone(run: Started, since: float) -> float:
    """From the kill until no process of the run is left."""
    known = run.processes()
    while known := [process for process in known if lives(process)] or run.processes():
        if time.monotonic() - since > GONE_SECONDS:
            names = ", ".join(f"{process.pid} {process.name()}" for process in known)
            raise CheckError(f"{GONE_SECONDS:g} s after the kill there are still {names}")
        time.sleep(LOOK_SECONDS)
    return time.monotonic() - since


def attempt(place: Path, kill: Kill, reference: Reference) -> Outcome:
    """Start, kill, look, resume.

    Raises:
        CheckError, LimitExceededError: something is not as it has to be.
    """
    variables = {}
    if kill.phase is not None:
        variables[VARIABLE] = f"kill:{kill.rank}:{kill.step}:{kill.phase}"
    flags, semaphores = flags_in(place, reference.flags), named_semaphores()
    with Started(place, "killed", flags, variables=variables) as run:
        struck = strike(run, kill, place)
        seconds = None if struck is None else seconds_until_gone(run, struck)
        status = run.status(LIMIT_SECONDS)
        said = run.printed()
    if left_over := named_semaphores() - semaphores:
        raise CheckError(f"semaphores are left: {', '.join(sorted(left_over))}")
    folder = folder_of_run(place / "runs")
    if folder is None:
        raise CheckError(f"ended with status {status} before it began: {said[-500:]!r}")
    if (folder / "summary.json").exists():
        if read_digests(folder) != reference.sha256:
            raise CheckError("it had finished, with other parameters")
        return Outcome(late=True, seconds=seconds, status=status)
    if status == 0 or seconds is None:
        raise CheckError(f"ended unfinished, with status {status}: {said[-500:]!r}")
    try:
        step = check_checkpoints(folder)
    except (ValueError, OSError) as error:
        raise CheckError(f"a checkpoint is not whole: {error}") from error
    left = leftovers(folder)
    begin = time.monotonic()
    resume(place, folder, step, reference)
    return Outcome(
        late=False,
        seconds=seconds,
        status=status,
        checkpoint_step=step,
        resumed_seconds=time.monotonic() - begin,
        left_by_kill=left,
        left_at_end=leftovers(folder),
    )


def resume(place: Path, folder: Path, step: int | None, reference: Reference) -> None:
    """Go on with the run in `folder`, whose last checkpoint is that of `step`."""
    with Started(place, "resumed", ("--resume", str(folder))) as run:
        status, said = run.status(LIMIT_SECONDS), run.printed()
        if left := run.processes():
            raise CheckError(f"after the resumed run there are still {left}")
    if status != 0:
        raise CheckError(f"resumed after step {step}: status {status}: {said[-500:]!r}")
    if read_digests(folder) != reference.sha256:
        raise CheckError(f"resumed after step {step}: other parameters than without the kill")
    reported = [int(epoch) for epoch in EPOCH_LINE.findall(said)]
    passed = 0 if step is None else step * EPOCHS // reference.num_steps
    if not reported or not passed <= reported[0] <= passed + 1:
        raise CheckError(
            f"a checkpoint after epoch {passed}, but the first epoch reported is {reported[:1]}"
        )
