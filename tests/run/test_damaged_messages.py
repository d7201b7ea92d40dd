"""A bit that flips on the way between nodes: no checkpoint holds what came of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pcode.training.checkpoint import last_step
from tests.run.runs import finished, run, run_folder

FLAGS = ("--arch", "logistic_regression", "--n_mpi_process", "3", "--num_epochs", "3")
STEPS = 14  # of an epoch
FLIPPED = "corrupt:1:20:arrival"  # in the second epoch


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The digests of the parameters at the end."""
    folder = tmp_path_factory.mktemp("unbroken")
    digests: list[str] = finished(folder, *FLAGS, "--backend", "sim")["parameters_sha256"]
    return digests


@pytest.mark.parametrize("backend", ["mpi", "gloo"])
@pytest.mark.parametrize("on_failure", ["stop", "continue"])
def test_the_run_ends_and_goes_on_from_the_last_good_checkpoint(
    tmp_path: Path, unbroken: list[str], backend: str, on_failure: str
) -> None:
    if (backend, on_failure) == ("gloo", "continue"):
        pytest.skip("gloo cannot go on after a failure")
    flags = (*FLAGS, "--backend", backend, "--on_failure", on_failure, "--save_all_models", "True")
    done = run(tmp_path, *flags, PCODE_INJECT=FLIPPED)
    assert done.returncode == 1
    said = f"run.py: error: rank 1, peer 0, step {2 * STEPS}: a message that came from the peer"
    assert f"{said} since the last checkpoint is not the one that it sent" in done.stderr
    folder = run_folder(tmp_path)
    assert last_step(folder) == STEPS
    assert not (folder / "summary.json").exists()
    assert {file.name for file in folder.glob("*/model*.pt")} == {"model_1.pt"}
    assert finished(tmp_path, "--resume", str(folder))["parameters_sha256"] == unbroken


def test_it_is_restarted_as_after_any_failure(tmp_path: Path) -> None:
    """And fails again: the fault happens once in each start."""
    done = run(tmp_path, *FLAGS, "--max_restarts", "1", PCODE_INJECT=FLIPPED)
    assert done.returncode == 1
    assert f"from the checkpoint after step {STEPS} of" in done.stderr


def test_nodes_of_several_processes_compare_too(tmp_path: Path) -> None:
    flags = (*FLAGS, "--n_mpi_process", "2", "--n_sub_process", "2")
    assert finished(tmp_path, *flags)["exit_reason"] == "finished"
    shutil.rmtree(tmp_path / "runs")
    assert run(tmp_path, *flags, PCODE_INJECT="corrupt:2:30:arrival").returncode == 1
    assert last_step(run_folder(tmp_path)) == 22


def test_without_the_check_the_damage_passes(tmp_path: Path, unbroken: list[str]) -> None:
    flags = (*FLAGS, "--check_messages", "False")
    assert finished(tmp_path, *flags, PCODE_INJECT=FLIPPED)["parameters_sha256"] != unbroken


def test_the_check_changes_no_bit(tmp_path: Path, unbroken: list[str]) -> None:
    assert finished(tmp_path, *FLAGS)["parameters_sha256"] == unbroken
