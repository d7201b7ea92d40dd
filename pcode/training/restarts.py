"""Starting a run again after a failure, from its last checkpoint."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pcode.training.checkpoint import last_step, read_manifest
from pcode.training.records import SUMMARY, run_name, taken
from pcode.utils.errors import TAKEN, USER_ERROR, UserError, say


@dataclass(frozen=True)
class Attempt:
    """One start of the ranks.

    Attributes:
        flags: to be added to the user's.
        folder: the run's.
        where: from where it goes on, in words.
    """

    flags: tuple[str, ...]
    folder: Path
    where: str = "from the beginning"


def new_run(runs: Path) -> Attempt:
    """Begin a run with the flags as they are, in a folder of its own beside the experiment's."""
    name = run_name(datetime.now())
    return Attempt(("--timestamp", name), runs / name)


class GoingBack:
    """One certain checkpoint that the user wants to go on from: of a run's folder, after a step."""

    def __init__(self, run: Path, step: int) -> None:
        self.step, self._config = step, _identity(run / "config.yaml")

    def has_begun(self, run: Path) -> bool:
        """Return whether it goes on in that folder: there are other checkpoints from then on."""
        return _identity(run / "config.yaml") != self._config


def next_attempt(
    before: Attempt,
    runs: Path,
    num_nodes: int,
    *,
    trains: bool,
    going_back: GoingBack | None = None,
) -> Attempt:
    """Return what to start after a failure.

    The run goes on in its folder if it got one that can be seen from here: of hosts that share no
    files with this machine nothing can be resumed, and it begins again under a new name. From a
    checkpoint of fewer nodes, after some were lost, a new run with all of them goes on.

    Args:
        before: the one that failed.
        runs: the folder of the experiment's runs.
        trains: otherwise there are no checkpoints.
        going_back: the checkpoint that the user asked for; too old once the run has begun.
    """
    folder = before.folder
    if not trains or not (folder / "config.yaml").is_file():
        return new_run(runs)
    flags: tuple[str, ...] = ("--resume", str(folder))
    step = last_step(folder)
    if going_back is not None and going_back.has_begun(folder):
        flags += ("--checkpoint_index", "none")
    elif going_back is not None:
        step = going_back.step
    if step is None:
        return Attempt(flags, folder, f"from the beginning of {folder}")
    where = f"from the checkpoint after step {step} of {folder}"
    try:
        whole = read_manifest(folder, step).num_nodes == num_nodes
    except UserError:  # the ranks will say so
        whole = True
    if whole:
        return Attempt(flags, folder, where)
    fresh = new_run(runs)
    return Attempt((*flags, *fresh.flags), fresh.folder, where)


def run_attempts(
    start: Callable[[Sequence[str]], tuple[int, bool, bool]],
    first: Attempt,
    following: Callable[[Attempt], Attempt],
    max_restarts: int,
    summary_needed: bool = False,
) -> int:
    """Start the ranks, and again after each failure; the exit status.

    A run that says in its summary that it finished did, whatever became of a rank: the one that
    died may be one that the others went on without.

    Args:
        start: runs mpirun with these flags added; its exit status, whether it failed, and whether
            a rank has then shown a traceback, which never goes with status 0.
        first: what to start first.
        following: what to start after one that failed.
        max_restarts: how often at most.
        summary_needed: 0 from mpirun is no good end without a summary: where nodes may die, it is
            also what mpirun ends with when all of them did.
    """
    attempt, num_restarts = first, 0
    while True:
        summary = attempt.folder / SUMMARY
        before = _identity(summary)
        status, failed, has_traceback = start(attempt.flags)
        is_new = _identity(summary) != before
        if failed and is_new and json.loads(summary.read_bytes())["exit_reason"] == "finished":
            return status if has_traceback else 0
        if status == 0 and summary_needed and not is_new:
            say("error: no node came to the end")
            status, failed = 1, True
        if status == TAKEN and num_restarts > 0:  # what its caller would plan is the first start
            say(f"error: {taken(attempt.folder)}")
            return USER_ERROR
        if not failed or num_restarts == max_restarts:
            return status
        num_restarts += 1
        attempt = following(attempt)
        say(
            f"restart {num_restarts} of {max_restarts}: a node failed (status {status}); "
            f"{attempt.where}"
        )


def _identity(file: Path) -> tuple[int, int] | None:
    """Return what changes whenever the file is replaced; None: there is none."""
    if not file.exists():
        return None
    found = file.stat()
    return found.st_ino, found.st_mtime_ns
