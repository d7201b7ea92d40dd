"""--max_restarts: a run whose node dies starts again from its last checkpoint, by itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.run.runs import finished
from tests.run.started import Started

FLAGS = ("--arch", "mlp", "--num_epochs", "20")


def test_killed_node_is_made_up_for(tmp_path: Path, started: list[Started]) -> None:
    """To the same bits as without the death, and with gamma searched for once."""
    gamma = ("--consensus_stepsize", "auto")
    started.append(Started(tmp_path, *FLAGS, *gamma, "--max_restarts", "3"))
    run = started[0]
    run.await_text(b"epoch   2:")
    run.ranks()[1].kill()
    assert run.status() == 0, run.errors
    error, restart = run.errors.decode().splitlines()
    named = re.fullmatch(
        r"run.py: error: rank 1 \(process \d+ on \S+\) was ended by signal 9 \(Killed\) in step "
        r"(\d+)",
        error,
    )
    assert named is not None, error
    found = re.fullmatch(
        r"run.py: restart 1 of 3: a node failed \(status \d+\); from the checkpoint after step "
        r"(\d+) of (.*)",
        restart,
    )
    assert found is not None, restart
    assert int(found[1]) <= int(named[1])
    assert found[2] == str(run.folder())
    output = run.output.decode()
    assert f"resumed after step {found[1]} " in output
    assert output.count("rounds of gossip on") == 1, output
    (tmp_path / "unbroken").mkdir()
    unbroken = finished(tmp_path / "unbroken", *FLAGS, *gamma, "--backend", "sim")
    summary = json.loads((run.folder() / "summary.json").read_text())
    assert summary["parameters_sha256"] == unbroken["parameters_sha256"]


def test_node_that_always_dies_ends_the_run(tmp_path: Path, started: list[Started]) -> None:
    """Before the first checkpoint, so it begins again, in the folder that it has."""
    started.append(
        Started(tmp_path, *FLAGS, "--max_restarts", "1", PCODE_INJECT="kill:1:3:forward")
    )
    assert started[0].status() == 137
    lines = started[0].errors.decode().splitlines()
    assert len(lines) == 3, lines
    assert all(line.endswith(" (Killed) in step 3") for line in (lines[0], lines[2])), lines
    assert lines[1] == (
        "run.py: restart 1 of 1: a node failed (status 137); from the beginning of "
        f"{started[0].folder()}"
    )


def test_runs_that_diverge_do_not_start_again(tmp_path: Path, started: list[Started]) -> None:
    started.append(Started(tmp_path, "--lr", "1e30", "--max_restarts", "3"))
    assert started[0].status() == 3
    assert b"restart" not in started[0].errors
