"""Two processes that are to go on with the same run: one does, and the other plans again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pcode.communication.sim import Simulation
from pcode.config import Config, config_of_run
from pcode.config.parser import parse
from pcode.training.checkpoint import node_file
from pcode.training.loop import run_node
from pcode.training.planning import make_plan
from pcode.training.records import lock
from pcode.training.resume import FOUND_VARIABLE, ResumePoint, standing_of
from pcode.training.state import _claim
from pcode.training.sync import StopRequest
from pcode.utils.errors import TAKEN, TakenError
from tests.resume.children import run, run_folder
from tests.run.started import LIMIT_SECONDS, Started

SMALL = ("--arch", "mlp", "--mlp_hidden_size", "16", "--n_mpi_process", "2", "--num_epochs", "9")
KILLED = "kill:1:50:forward"


def unfinished(folder: Path) -> Path:
    assert run(folder, SMALL, KILLED).status == -9
    return run_folder(folder)


@pytest.mark.parametrize(
    "backend",
    ["sim", *(pytest.param(each, marks=pytest.mark.slow) for each in ("mpi", "gloo"))],
)
def test_two_at_once(tmp_path: Path, started: list[Started], backend: str) -> None:
    """They start together; a run goes on once, and the other process begins a new one."""
    old = unfinished(tmp_path)
    flags = (*SMALL, "--backend", backend, "--resume", "auto")
    started += [Started(tmp_path, *flags), Started(tmp_path, *flags)]
    for each in started:  # nothing of both is left when the second has ended
        each.process.wait(LIMIT_SECONDS)
    assert [each.status() for each in started] == [0, 0], [each.errors for each in started]
    assert [each.errors for each in started] == [b"", b""]
    runs = sorted(old.parent.iterdir())
    assert old in runs
    assert len(runs) == 2
    outputs = [each.output.decode() for each in started]
    assert sorted(output.splitlines()[-1] for output in outputs) == [f"results: {r}" for r in runs]
    assert all((each / "summary.json").is_file() for each in runs)
    resumed = [json.loads((each / "summary.json").read_text())["events"] for each in runs]
    assert [len(events) for events in resumed] == [1, 0]


def test_what_has_changed_since_it_was_found_is_not_claimed(tmp_path: Path) -> None:
    """With the lock in hand: the process that had it may have brought the run to its end."""
    old = unfinished(tmp_path)
    found = ResumePoint(old, None, same=True, standing=standing_of(old))
    held = _claim(old, found)
    assert held is not None
    held.close()
    (old / "summary.json").write_text("{}")
    assert _claim(old, found) is None
    lock(old).close()  # it does not hold it


def test_what_it_writes_meanwhile_is_not_complained_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a process that looks at the folder while another begins to train in it."""
    old, held = unfinished(tmp_path), []

    def read_while_another_begins(run: Path) -> Config:
        held.append(lock(run))
        (run / ".tmp-gone").symlink_to("gone")  # as a file is that is renamed between two looks
        return config_of_run(run)

    monkeypatch.setattr("pcode.training.resume.config_of_run", read_while_another_begins)
    config = parse([*SMALL, "--backend", "sim", "--resume", str(old)]).config
    with pytest.raises(TakenError):
        make_plan(config)
    held[0].close()


def test_what_it_removes_meanwhile_is_not_missed(tmp_path: Path) -> None:
    """A run that was brought to its end between another's finding and reading its checkpoint."""
    old = unfinished(tmp_path)
    flags = [*SMALL, "--backend", "sim", "--checkpoint", str(tmp_path / "runs")]
    plan = make_plan(parse([*flags, "--resume", str(old)]).config)
    assert plan.start is not None
    assert plan.start.manifest is not None
    read = node_file(old, "0", plan.start.manifest.step)
    assert read.is_file()
    assert run(tmp_path, [*SMALL, "--resume", str(old)]).status == 0
    assert not read.exists()
    with pytest.raises(TakenError):
        Simulation(2).run(lambda process: run_node(plan, process, StopRequest()))


def test_ranks_leave_it_to_their_launcher_to_plan_again(
    tmp_path: Path, started: list[Started]
) -> None:
    """What it has found for them is trained by another process when they look."""
    old = unfinished(tmp_path)
    assert config_of_run(old).watch.resume is None
    rank = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}
    local = {"OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    launcher = {"PCODE_LAUNCHER": "pipe", FOUND_VARIABLE: str(old)}
    with lock(old):
        flags = (*SMALL, "--resume", "auto")
        started.append(Started(tmp_path, *flags, **rank, **local, **launcher))
        assert started[0].status() == TAKEN
    assert started[0].output + started[0].errors == b""
