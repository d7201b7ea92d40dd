"""Nodes of several processes, as users start them."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from pcode.main import main
from pcode.training.checkpoint import last_step
from pcode.utils.errors import DIVERGED, PREEMPTED, USER_ERROR
from tests.resume import children
from tests.run.runs import run
from tests.run.started import Started, started

__all__ = ["started"]

# Uncompressed messages, so that roundings stay as small as they are.
FLAGS = ("--arch", "mlp", "--mlp_hidden_size", "16", "--batch_size", "48", "--comm_op", "none")
PARTS = ("--n_sub_process", "2")
LONG = ("--num_epochs", "100000")


def models(run: Path) -> list[dict[str, torch.Tensor]]:
    """The final models of two nodes."""
    return [torch.load(run / f"{node}/model.pt", weights_only=True) for node in range(2)]


def unbroken(folder: Path, num_epochs: str, *flags: str) -> dict[str, Any]:
    """The summary of a simulated run."""
    folder.mkdir()
    return children.finished(folder, (*FLAGS, "--num_epochs", num_epochs, *flags))


def test_asked_to_end_and_resumed_over_gloo(tmp_path: Path, started: list[Started]) -> None:
    """Over MPI, by a signal to a process that is not its node's first."""
    # It makes few steps before the signal comes.
    slow = ",".join(f"delay=.5:1:{step}:data" for step in range(15, 40))
    started.append(Started(tmp_path, *FLAGS, *LONG, *PARTS, PCODE_INJECT=slow))
    started[0].await_text(b"epoch   1:")
    ranks = started[0].ranks()
    assert len(ranks) == 4
    ranks[3].send_signal(signal.SIGTERM)
    assert started[0].status() == PREEMPTED, started[0].errors
    folder = started[0].folder()
    step = last_step(folder)
    assert step is not None
    assert f"saved after step {step}; " in started[0].output.decode()
    log = json.loads((folder / f"checkpoints/{step}.json").read_text())
    num_epochs = str(step // log["steps_per_epoch"] + 2)
    done = run(
        *(tmp_path, "--resume", str(folder), "--num_epochs", num_epochs, "--backend", "gloo")
    )
    assert done.returncode == 0, done.stderr
    assert f"resumed after step {step} " in done.stdout
    assert "2 nodes of 2 processes with 24 samples of a batch each" in done.stdout

    got = json.loads((folder / "summary.json").read_text())
    want = unbroken(tmp_path / "parts", num_epochs, *PARTS)
    assert got["parameters_sha256"] == want["parameters_sha256"]
    assert got["test_top1_per_node"] == want["test_top1_per_node"]
    for node in range(2):
        kept = [json.loads(line) for line in (folder / f"{node}/log.jsonl").open()]
        for record in kept:
            record.pop("seconds", None)
            record.pop("step_seconds", None)
        assert kept == children.records(tmp_path / "parts", node)
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    assert names == {"0", "1", "checkpoints", "tensorboard"}

    whole = unbroken(tmp_path / "whole", num_epochs)
    for one, other in zip(
        models(folder), models(children.run_folder(tmp_path / "whole")), strict=True
    ):
        assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in one)
    assert got["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-4)
    # What goes on inside a node is not counted.
    assert got["bytes_sent_total"] == whole["bytes_sent_total"]


@pytest.mark.parametrize(
    "optimizer",
    [
        "decentralized_qg_sgd",  # divides by the rate
        "beer",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("d2", "sgp", "lead")),
    ],
)
def test_two_processes_of_a_node_train_as_one(tmp_path: Path, optimizer: str) -> None:
    flags = ("--optimizer", optimizer, "--partition_data", "sorted")
    parts, whole = (
        unbroken(tmp_path / name, "2", *flags, *more) for name, more in (("2", PARTS), ("1", ()))
    )
    pairs = zip(*(models(children.run_folder(tmp_path / name)) for name in "21"), strict=True)
    for one, other in pairs:
        assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in one)
    assert parts["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-4)
    assert parts["bytes_sent_total"] == whole["bytes_sent_total"]


def test_a_process_that_is_killed_ends_the_run(tmp_path: Path) -> None:
    done = run(tmp_path, *FLAGS, *LONG, *PARTS, PCODE_INJECT="kill:3:3:backward")
    assert done.returncode not in (0, USER_ERROR)
    assert re.search(r"rank 3 .* signal 9 .*in step 3$|rank 1", done.stderr, re.MULTILINE)


def test_a_process_whose_loss_is_not_finite_says_so_for_its_node(tmp_path: Path) -> None:
    ended = children.run(tmp_path, (*FLAGS, *PARTS), "corrupt:3:7:forward")
    assert ended.status == DIVERGED
    assert "run.py: error: rank 1, step 7: the training loss is nan" in ended.output
    reason = children.summary(tmp_path)["exit_reason"]
    assert reason == "diverged: rank 1, step 7: the training loss is nan"


def test_a_run_with_other_processes_is_another(tmp_path: Path) -> None:
    unbroken(tmp_path / "first", "1", *PARTS)
    first = children.run_folder(tmp_path / "first")
    flags = ("--resume", str(first), "--num_epochs", "2", "--n_sub_process", "3")
    ended = children.run(tmp_path, flags)
    assert ended.status == 0, ended.output
    assert "whose flags differ: every node goes on from its own model" in ended.output
    assert children.run_folder(tmp_path) != first


@pytest.mark.parametrize(("num_ranks", "named"), [(4, "2 nodes of 2 processes"), (3, "3 ranks")])
def test_ranks_are_nodes_and_their_processes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    num_ranks: int,
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"RANK": 0, "SIZE": num_ranks}.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", str(value))
        monkeypatch.setenv(f"OMPI_COMM_WORLD_LOCAL_{name}", str(value))
    status = main(["--dry_run", *FLAGS, *PARTS])
    printed = capsys.readouterr()
    assert named in printed.out + printed.err
    assert status == (0 if num_ranks == 4 else USER_ERROR)
