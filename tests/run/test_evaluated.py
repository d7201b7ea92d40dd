"""Runs that diverge, and runs whose models are evaluated later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pcode.utils.errors import DIVERGED, USER_ERROR
from tests.run.runs import finished, run, run_folder, summary

SMALL = ("--arch", "mlp", "--n_mpi_process", "3")


@pytest.mark.parametrize("backend", ["sim", "mpi"])
@pytest.mark.parametrize("lr", ["1e3", "1e30"])  # a loss above the bound, one that is no number
def test_a_run_that_diverged_leaves_a_summary(tmp_path: Path, backend: str, lr: str) -> None:
    optimizer = ("--optimizer", "sgd", "--lr", lr, "--momentum_factor", "0")
    done = run(tmp_path, *SMALL, *optimizer, "--backend", backend)
    assert done.returncode == DIVERGED
    result = summary(tmp_path)
    assert result["exit_reason"].startswith("diverged: rank ")
    assert "the training loss is" in result["exit_reason"]
    assert result["exit_reason"].removeprefix("diverged: ") in done.stderr
    assert result["test_top1"] is None
    assert 0 < result["num_steps"] < 70
    assert result["num_parameters"] == 64 * 128 + 128 + 128 * 10 + 10


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three nodes that kept its models after epochs 1 and 2."""
    folder = tmp_path_factory.mktemp("trained")
    finished(folder, *SMALL, "--backend", "sim", "--num_epochs", "3", "--save_some_models", "1,2")
    return folder


def records(folder: Path) -> list[dict[str, Any]]:
    lines = (run_folder(folder) / "0/log.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == "evaluation"]


@pytest.mark.parametrize("backend", ["sim", "mpi"])
def test_the_models_of_a_run_are_evaluated(trained: Path, tmp_path: Path, backend: str) -> None:
    resume = ("--evaluate", "True", "--resume", str(run_folder(trained)), "--backend", backend)
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    result = finished(tmp_path, *SMALL, *resume)
    assert result["exit_reason"] == "evaluated"
    assert result["num_steps"] == 0
    for name in ("test_top1_per_node", "averaged_model_test_top1", "parameters_sha256"):
        assert result[name] == summary(trained)[name]
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_what_is_evaluated_is_as_its_run_says(trained: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "--evaluate", "True", "--resume", str(run_folder(trained)), "--lr", ".3")
    assert done.returncode == 0, done.stderr
    assert summary(tmp_path)["parameters_sha256"] == summary(trained)["parameters_sha256"]
    assert done.stderr == "run.py: warning: --lr: --evaluate True trains nothing\n"


@pytest.mark.parametrize("epoch", [1, 2])
def test_the_models_of_an_epoch_are_evaluated(trained: Path, tmp_path: Path, epoch: int) -> None:
    index = ("--evaluate", "True", "--checkpoint_index", str(epoch), "--backend", "sim")
    result = finished(tmp_path, *SMALL, *index, "--resume", str(run_folder(trained)))
    assert result["test_top1"] == records(trained)[epoch - 1]["test_top1"]


def test_the_nodes_that_a_run_has_lost_have_no_models(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder(trained), tmp_path / "copy")
    (tmp_path / "copy/1/model.pt").unlink()
    evaluated = ("--evaluate", "True", "--backend", "sim", "--resume", "copy")
    refused = run(tmp_path, *evaluated)
    assert refused.returncode == USER_ERROR
    assert refused.stderr.endswith(
        "there is no model copy/1/model.pt; it has those of 2 nodes: --n_mpi_process\n"
    )
    result = finished(tmp_path, *evaluated, "--n_mpi_process", "2")
    whole = summary(trained)
    for name in ("test_top1_per_node", "parameters_sha256"):
        assert result[name] == [whole[name][0], whole[name][2]]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--n_mpi_process", "4"), "3/model.pt"),
        (("--n_mpi_process", "2"), "--n_mpi_process 2: the run"),
        (("--arch", "resnet8"), "0/model.pt does not hold this model"),
        (("--checkpoint_index", "3"), "0/model_3.pt"),
        (("--resume", "nowhere"), "nowhere/config.yaml"),
        (("--resume", "empty"), "empty/0/model.pt"),
        (("--resume", "damaged"), "damaged/0/model.pt does not hold this model"),
        (("--resume", "junk"), "junk/0/model.pt does not hold this model"),
    ],
)
def test_models_that_do_not_fit_are_refused(
    trained: Path, tmp_path: Path, flags: tuple[str, ...], named: str
) -> None:
    for name, content in (("damaged", b"no archive"), ("junk", b"junk\n")):
        for rank in range(3):
            (tmp_path / name / str(rank)).mkdir(parents=True)
            (tmp_path / name / str(rank) / "model.pt").write_bytes(content)
    for name in ("damaged", "junk", "empty"):
        (tmp_path / name).mkdir(exist_ok=True)
        shutil.copy(run_folder(trained) / "config.yaml", tmp_path / name)
    evaluated = ("--evaluate", "True", "--backend", "sim")
    done = run(tmp_path, *SMALL, *evaluated, "--resume", str(run_folder(trained)), *flags)
    assert done.returncode == USER_ERROR
    assert done.stderr.count("\n") == 1
    assert "--resume" in done.stderr
    assert named in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("backend", ["sim", "mpi"])
def test_a_damaged_model_of_another_node_is_one_line(
    trained: Path, tmp_path: Path, backend: str
) -> None:
    shutil.copytree(run_folder(trained), tmp_path / "copy")
    (tmp_path / "copy/1/model.pt").write_bytes(b"junk\n")
    done = run(tmp_path, *SMALL, "--evaluate", "True", "--resume", "copy", "--backend", backend)
    assert done.returncode == USER_ERROR
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("run.py: error: ")]
    assert "copy/1/model.pt does not hold this model" in line
    assert "Traceback" not in done.stderr


def test_the_partition_is_kept(trained: Path) -> None:
    import numpy as np  # noqa: PLC0415

    shares = np.load(run_folder(trained) / "partition.npz")
    assert sorted(shares) == ["0", "1", "2"]
    assert sorted(torch.cat([torch.from_numpy(shares[rank]) for rank in shares]).tolist()) == list(
        range(1437)
    )
