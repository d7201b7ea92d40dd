"""What follows a failure: another start, from what there is, as often as was allowed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from pcode.launch.supervise import Ended
from pcode.training.checkpoint import Manifest
from pcode.training.restarts import Attempt, GoingBack, new_run, next_attempt, run_attempts
from pcode.utils.files import whole_file

FAILED = Ended(137, failed=True)


class Starts:
    """Ends of mpirun in a row, and what was started."""

    def __init__(self, *ends: Ended) -> None:
        self._ends = list(ends)
        self.flags: list[Sequence[str]] = []

    def __call__(self, flags: Sequence[str]) -> Ended:
        self.flags.append(flags)
        return self._ends.pop(0)


def restart(attempt: Attempt) -> Attempt:
    return Attempt((*attempt.flags, "again"), attempt.folder, "from somewhere")


@pytest.mark.parametrize(
    ("ends", "max_restarts", "num_starts", "status"),
    [
        ([Ended(0, failed=False)], 3, 1, 0),
        ([Ended(2, failed=False)], 3, 1, 2),
        ([FAILED], 0, 1, 137),
        ([FAILED, FAILED, Ended(1, failed=True)], 2, 3, 1),
        ([FAILED, Ended(0, failed=False)], 2, 2, 0),
        ([FAILED, Ended(75, failed=False)], 2, 2, 75),
    ],
)
def test_failures_are_restarted_so_many_times(
    ends: list[Ended],
    max_restarts: int,
    num_starts: int,
    status: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    starts = Starts(*ends)
    assert run_attempts(starts, Attempt((), Path("nowhere")), restart, max_restarts) == status
    assert starts.flags == [("again",) * number for number in range(num_starts)]
    assert capsys.readouterr().err.splitlines() == [
        f"run.py: restart {number} of {max_restarts}: a node failed (status 137); from somewhere"
        for number in range(1, num_starts)
    ]


@pytest.mark.parametrize(
    ("reason", "has_traceback", "status"),
    [("finished", False, 0), ("finished", True, 137), ("diverged: x", False, 137)],
)
def test_summary_of_this_run_decides_unless_there_is_a_traceback(
    tmp_path: Path, reason: str, has_traceback: bool, status: int
) -> None:
    def start(flags: Sequence[str]) -> Ended:
        (tmp_path / "summary.json").write_text(json.dumps({"exit_reason": reason}))
        return FAILED._replace(has_traceback=has_traceback)

    assert run_attempts(start, Attempt((), tmp_path), restart, 0) == status


def test_summary_of_an_earlier_run_does_not_decide(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"exit_reason": "finished"}))
    assert run_attempts(Starts(FAILED), Attempt((), tmp_path), restart, 0) == 137


def test_good_end_without_a_summary_is_none_where_nodes_may_die(tmp_path: Path) -> None:
    good = Ended(0, failed=False)
    attempt = Attempt((), tmp_path)
    assert run_attempts(Starts(good), attempt, restart, 0) == 0
    assert run_attempts(Starts(good), attempt, restart, 0, summary_needed=True) == 1
    preempted = Starts(Ended(75, failed=False))
    assert run_attempts(preempted, attempt, restart, 0, summary_needed=True) == 75


def test_what_another_process_trains_is_not_begun_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever called would plan from the beginning: only the first start may be planned again."""
    taken = Ended(74, failed=False)
    assert run_attempts(Starts(taken), Attempt((), tmp_path), restart, 1) == 74
    capsys.readouterr()
    assert run_attempts(Starts(FAILED, taken), Attempt((), tmp_path), restart, 1) == 2
    line = f"run.py: error: --resume {tmp_path}: another process trains it"
    assert capsys.readouterr().err.splitlines()[1:] == [line]


def test_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    first = new_run(tmp_path)
    assert first.flags == ("--timestamp", first.folder.name)
    again = next_attempt(first, tmp_path, 3, trains=True)
    assert again.where == "from the beginning"
    assert again.flags[0] == "--timestamp"
    assert again.folder != first.folder

    first.folder.mkdir()
    (first.folder / "config.yaml").touch()
    again = next_attempt(first, tmp_path, 3, trains=True)
    assert again.flags == ("--resume", str(first.folder))
    assert again.where == f"from the beginning of {first.folder}"

    (first.folder / "checkpoints").mkdir()
    for step in (9, 57):
        (first.folder / "checkpoints" / f"{step}.json").touch()
    again = next_attempt(first, tmp_path, 3, trains=True)
    assert again.flags == ("--resume", str(first.folder))
    assert again.where == f"from the checkpoint after step 57 of {first.folder}"

    assert next_attempt(first, tmp_path, 3, trains=False).flags[0] == "--timestamp"


def test_checkpoint_asked_for_counts_until_the_run_has_begun(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    files = {step: run / "checkpoints" / f"{step}.json" for step in (9, 57, 70)}
    for file in files.values():
        file.touch()
    back, first = GoingBack(run, 9), Attempt((), run)
    again = next_attempt(first, tmp_path, 3, trains=True, going_back=back)
    assert again.flags == ("--resume", str(run))
    assert again.where == f"from the checkpoint after step 9 of {run}"

    for step in (57, 70):
        files[step].unlink()
    again = next_attempt(first, tmp_path, 3, trains=True, going_back=back)
    assert again.flags == ("--resume", str(run))

    for own in (run / "config.yaml", files[57]):
        with whole_file(own) as its_own:
            its_own.write(b"{}")
    again = next_attempt(first, tmp_path, 3, trains=True, going_back=back)
    assert again.flags == ("--resume", str(run), "--checkpoint_index", "none")
    assert again.where == f"from the checkpoint after step 57 of {run}"

    # It is not the run that was asked for, and has checkpoints of its own.
    (tmp_path / "source").mkdir()
    (tmp_path / "source/config.yaml").touch()
    branched = GoingBack(tmp_path / "source", 9)
    again = next_attempt(first, tmp_path, 3, trains=True, going_back=branched)
    assert again.flags == ("--resume", str(run), "--checkpoint_index", "none")


def test_after_nodes_were_lost_a_new_run_goes_on_with_all(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    members = ["0", "2"]
    manifest = Manifest(57, 11, tuple(members), ("", ""), "", version=1)
    (run / "checkpoints/57.json").write_text(json.dumps(dataclasses.asdict(manifest)))
    for name in members:
        (run / name).mkdir()
        (run / name / "checkpoint_57.pt").touch()
    again = next_attempt(Attempt((), run), tmp_path, 3, trains=True)
    assert again.folder != run
    assert again.flags == ("--resume", str(run), "--timestamp", again.folder.name)
