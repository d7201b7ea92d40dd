"""Going on from a run with other nodes, on another graph, with another optimizer: a new run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.resume.children import finished, run, run_folder, summary

SMALL = (
    *("--arch", "mlp", "--mlp_hidden_size", "16", "--lr", ".02"),
    *("--n_mpi_process", "4", "--batch_size", "64", "--num_epochs", "2"),
)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 4 nodes on a ring."""
    folder = tmp_path_factory.mktemp("first")
    finished(folder, SMALL)
    return run_folder(folder)


def state(run: Path, rank: int, step: int) -> dict[str, Any]:
    """A node's part of a checkpoint."""
    content: dict[str, Any] = torch.load(run / str(rank) / f"checkpoint_{step}.pt")
    return content


def branch(tmp_path: Path, first: Path, *flags: str) -> tuple[str, Path]:
    """What a run from the first one prints, and its folder, which is a new one."""
    before = {file: file.read_bytes() for file in first.rglob("*") if file.is_file()}
    ended = run(tmp_path, ("--resume", str(first), "--checkpoint", "runs", *flags))
    assert ended.status == 0, ended.output
    assert {file: file.read_bytes() for file in first.rglob("*") if file.is_file()} == before
    return ended.output, run_folder(tmp_path)


# gamma times the copies' difference is what mixing adds: nothing else moves a model whose rate is
# 0 and whose momentum is forgotten.
STILL = ("--lr", "0", "--momentum_factor", "0", "--weight_decay", "0", "--num_epochs", "3")


def test_each_goes_on_from_its_own_model(tmp_path: Path, first: Path) -> None:
    """On the same graph, with another rate and compressor: copies and all. Without gradients a
    step is x + gamma z.
    """
    flags = ("--comm_op", "none", "--consensus_stepsize", ".5")
    iterations = ("--stop_criteria", "iteration", "--num_iterations", str(4 * (2 * 5 + 1)))
    output, run_ = branch(tmp_path, first, *flags, *STILL, *iterations)
    assert "every node goes on from its own model" in output
    for rank in range(4):
        before = state(first, rank, 10)
        want = before["x"] + 0.5 * before["optimizer"]["vectors"]["z"]
        torch.testing.assert_close(state(run_, rank, 11)["x"], want, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("num_nodes", "graph"), [(2, "ring"), (5, "ring"), (4, "star")])
def test_others_start_from_the_mean(
    tmp_path: Path, first: Path, num_nodes: int, graph: str
) -> None:
    steps_per_epoch = 1437 // (num_nodes * 64)
    steps = str(num_nodes * (2 * steps_per_epoch + 1))
    iterations = ("--stop_criteria", "iteration", "--num_iterations", steps)
    flags = ("--n_mpi_process", str(num_nodes), "--graph_topology", graph)
    output, run_ = branch(tmp_path, first, *flags, *STILL, *iterations)
    assert "every node goes on from the mean of 4 models" in output
    mean = torch.stack([state(first, rank, 10)["x"] for rank in range(4)]).double().mean(dim=0)
    for rank in range(num_nodes):
        got = state(run_, rank, 2 * steps_per_epoch + 1)["x"].double()
        torch.testing.assert_close(got, mean, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "optimizer", ["sgd", "dcd_psgd", "ecd_psgd", "deep_squeeze", "power_gossip"]
)
def test_another_optimizer_goes_on_from_the_mean(
    tmp_path: Path, first: Path, optimizer: str
) -> None:
    flags = ("--optimizer", optimizer, "--comm_op", "quantize_qsgd", "--quantize_level", "16")
    output, run_ = branch(tmp_path, first, *flags, "--num_epochs", "5")
    assert "every node goes on from the mean of 4 models" in output
    result = summary(tmp_path)
    before = summary(first.parents[4])
    assert result["num_steps"] == 5 * 5
    assert result["train_loss"] < before["train_loss"]
    # config.yaml starts the same run again.
    again = tmp_path / "again"
    again.mkdir()
    got = finished(again, ("--config", str(run_ / "config.yaml"), "--checkpoint", "runs"))
    assert got["parameters_sha256"] == result["parameters_sha256"]


def test_what_belongs_to_links_is_left_behind(tmp_path: Path) -> None:
    """PowerGossip's factors: nodes of a star have one link or three."""
    folder, flags = tmp_path / "star", (*SMALL, "--optimizer", "power_gossip")
    folder.mkdir()
    finished(folder, (*flags, "--graph_topology", "star"))
    ring = ("--graph_topology", "ring", "--num_epochs", "3")
    output, _ = branch(tmp_path, run_folder(folder), *ring)
    assert "every node goes on from the mean of 4 models" in output
    assert summary(tmp_path)["num_steps"] == 3 * 5


@pytest.mark.parametrize(
    "flags", [("--lr", ".01"), ("--n_mpi_process", "5"), ("--lr", ".01", "--num_epochs", "1")]
)
def test_a_new_run_needs_steps_of_its_own(
    tmp_path: Path, first: Path, flags: tuple[str, ...]
) -> None:
    ended = run(tmp_path, ("--resume", str(first), *flags))
    assert ended.status == 2
    assert ended.output.endswith("; a larger --num_epochs\n")
    assert "its checkpoint is after 2 epochs, and the run is to have " in ended.output
    assert not (tmp_path / "runs").exists()


def test_a_new_run_that_is_killed_at_once_still_knows_where_it_came_from(
    tmp_path: Path, first: Path
) -> None:
    flags = ("--resume", str(first), "--lr", ".01", "--num_epochs", "3")
    (tmp_path / "whole").mkdir()
    want = finished(tmp_path / "whole", flags)
    assert run(tmp_path, flags, "kill:1:11:forward").status == -9
    own = run_folder(tmp_path)
    got = finished(tmp_path, ("--resume", str(own)))
    assert got["parameters_sha256"] == want["parameters_sha256"]
    assert yaml.safe_load((own / "config.yaml").read_text())["resume"] == str(first)


def test_going_back_forgets_what_came_later(tmp_path: Path) -> None:
    flags = (*SMALL, "--num_epochs", "4", "--save_all_models", "True")
    finished(tmp_path, flags)
    own = run_folder(tmp_path)
    back = ("--resume", str(own), "--checkpoint_index", "1")
    assert run(tmp_path, back, "kill:1:7:forward").status == -9
    assert [file.stem for file in (own / "checkpoints").iterdir()] == ["5"]
    assert not (own / "summary.json").exists()
    assert len(list(own.glob("*/checkpoint_*.pt"))) == 4


def test_more_epochs_are_the_same_run(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    want = finished(tmp_path / "whole", (*SMALL, "--num_epochs", "3"))
    finished(tmp_path, SMALL)
    got = finished(tmp_path, ("--resume", str(run_folder(tmp_path)), "--num_epochs", "3"))
    assert got["parameters_sha256"] == want["parameters_sha256"]
    config = yaml.safe_load((run_folder(tmp_path) / "config.yaml").read_text())
    assert config["num_epochs"] == 3
    assert config["resume"] is None


def test_an_earlier_checkpoint(tmp_path: Path) -> None:
    flags = (*SMALL, "--num_epochs", "4", "--keep_checkpoints", "1", "--save_some_models", "1,3")
    want = finished(tmp_path, flags)
    run_ = run_folder(tmp_path)
    assert sorted(int(file.stem) for file in (run_ / "checkpoints").iterdir()) == [5, 15, 20]
    ended = run(tmp_path, ("--resume", str(run_), "--checkpoint_index", "2"))
    assert ended.status == 2
    assert "there are: 1, 3, 4" in ended.output
    ended = run(tmp_path, ("--resume", str(run_), "--checkpoint_index", "1"))
    assert "resumed after step 5 (epoch 1)" in ended.output
    assert summary(tmp_path)["parameters_sha256"] == want["parameters_sha256"]


def test_auto(tmp_path: Path) -> None:
    """The newest run that has not ended and has these flags; else a new one."""
    auto = (*SMALL, "--resume", "auto")
    want = finished(tmp_path, auto)
    for name in ("older", "newer"):
        killed = run(tmp_path, (*SMALL, "--timestamp", name), "kill:1:7:backward")
        assert killed.status == -9
    run(tmp_path, (*SMALL, "--lr", ".1", "--timestamp", "other"), "kill:1:7:backward")
    runs = tmp_path / "runs/digits/mlp/demo"
    for name in ("newer", "older"):
        ended = run(tmp_path, auto)
        assert f"resumed after step 5 (epoch 1) of runs/digits/mlp/demo/{name}" in ended.output
        got = yaml.safe_load((runs / name / "summary.json").read_text())
        assert got["parameters_sha256"] == want["parameters_sha256"]
    assert not (runs / "other/summary.json").exists()
    assert "resumed" not in run(tmp_path, auto).output
    assert len(list(runs.iterdir())) == 5
