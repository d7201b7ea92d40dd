"""Starting a run again after a failure, from its last checkpoint."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pcode.training.checkpoint import last_step, manifest_file, read_manifest, saved_steps
from pcode.training.folders import SUMMARY
from pcode.training.records import run_name
from pcode.utils.errors import UserError


class EndOfRanks(Protocol):
    """How the ranks ended: with which status, and whether it was a failure."""

    @property
    def status(self) -> int: ...

    @property
    def failed(self) -> bool: ...


@dataclass(frozen=True)
class Attempt:
    """One start of the ranks.

    Attributes:
        flags: to be added to the user's.
        folder: the run's, or None where it is not known before the ranks find it.
        where: from where it goes on, in words.
    """

    flags: tuple[str, ...]
    folder: Path | None
    where: str = "from the beginning"


def new_run(runs: Path) -> Attempt:
    """A run with the flags as they are, in a folder of its own among those of the experiment."""
    name = run_name(datetime.now())
    return Attempt(("--timestamp", name), runs / name)


class GoingBack:
    """One certain checkpoint that the user wants to go on from.

    Args:
        run: its run's folder.
        step: the checkpoint's.
        same: it is that run which goes on; otherwise a new one starts from its models.
    """

    def __init__(self, run: Path, step: int, *, same: bool) -> None:
        self.step = step
        later = [manifest_file(run, other) for other in saved_steps(run) if same and other > step]
        self._later = {file: _identity(file) for file in later}

    @property
    def has_begun(self) -> bool:
        """Whether later checkpoints were forgotten: those that there are now are of this time."""
        return all(_identity(file) != before for file, before in self._later.items())


def next_attempt(
    before: Attempt,
    runs: Path,
    num_nodes: int,
    *,
    trains: bool,
    going_back: GoingBack | None = None,
) -> Attempt:
    """What to start after a failure.

    The run goes on in its folder if it got one that can be seen from here: of hosts that share no
    files with this machine nothing can be resumed, and it begins again under a new name. From a
    checkpoint of fewer nodes, after some were lost, a new run with all of them goes on.

    Args:
        before: the one that failed.
        runs: the folder of the experiment's runs.
        num_nodes: how many are started.
        trains: otherwise there are no checkpoints.
        going_back: the checkpoint that the user asked for; too old once the run has begun.
    """
    folder = before.folder
    if folder is None or not trains or not (folder / "config.yaml").is_file():
        return new_run(runs)
    flags, step = ["--resume", str(folder)], last_step(folder)
    if going_back is not None and going_back.has_begun:
        flags += ["--checkpoint_index", "none"]
    elif going_back is not None:
        step = going_back.step
    if step is None:
        return Attempt(tuple(flags), folder, f"from the beginning of {folder}")
    where = f"from the checkpoint after step {step} of {folder}"
    try:
        whole = read_manifest(folder, step).num_nodes == num_nodes
    except UserError:  # the ranks will say so
        whole = True
    if whole:
        return Attempt(tuple(flags), folder, where)
    fresh = new_run(runs)
    return Attempt((*flags, *fresh.flags), fresh.folder, where)


def run_attempts(
    start: Callable[[Sequence[str]], EndOfRanks],
    first: Attempt,
    following: Callable[[Attempt], Attempt],
    max_restarts: int,
    summary_needed: bool = False,
) -> int:
    """Start the ranks, and again after each failure; the exit status.

    A run that says in its summary that it finished did, whatever became of a rank: the one that
    died may be one that the others went on without.

    Args:
        start: runs mpirun with these flags added.
        first: what to start first.
        following: what to start after one that failed.
        max_restarts: how often at most.
        summary_needed: 0 from mpirun is no good end without a summary: where nodes may die, it is
            also what mpirun ends with when all of them did.
    """
    attempt, num_restarts = first, 0
    while True:
        summary = None if attempt.folder is None else attempt.folder / SUMMARY
        before = _identity(summary)
        ended = start(attempt.flags)
        status, failed = ended.status, ended.failed
        is_new = _identity(summary) != before
        if failed and is_new and _has_finished(summary):
            return 0
        if status == 0 and summary_needed and not is_new:
            print("run.py: error: no node came to the end", file=sys.stderr, flush=True)
            status, failed = 1, True
        if not failed or num_restarts == max_restarts:
            return status
        num_restarts += 1
        attempt = following(attempt)
        print(
            f"run.py: restart {num_restarts} of {max_restarts}: a node failed (status "
            f"{status}); {attempt.where}",
            file=sys.stderr,
            flush=True,
        )


def _identity(file: Path | None) -> tuple[int, int] | None:
    """Changes whenever the file is replaced; None: there is none."""
    if file is None or not file.exists():
        return None
    found = file.stat()
    return found.st_ino, found.st_mtime_ns


def _has_finished(summary: Path | None) -> bool:
    """Whether the summary of a run says that it did."""
    return summary is not None and json.loads(summary.read_bytes())["exit_reason"] == "finished"
