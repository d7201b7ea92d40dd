"""A user's mistake: one line that names it, exit status 2, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.run.bad_input import Refuse
from tests.run.mistakes import FILES, MISTAKES
from tests.run.runs import run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize(("flags", "named"), MISTAKES)
def test_a_mistake_is_one_line(folder: Path, refuse: Refuse, flags: str, named: str) -> None:
    refuse(flags.split(), named)


def test_a_mistake_is_no_mistake_in_a_dry_run_alone(folder: Path, refuse: Refuse) -> None:
    refuse(["--dry_run", "--data", "digit"], "--data 'digit'")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_says_so(folder: Path, refuse: Refuse) -> None:
    refuse(["--on_cuda", "True"], "--on_cuda True: this machine has no GPU")


def test_a_run_that_exists_is_not_overwritten(folder: Path, refuse: Refuse) -> None:
    taken = folder / "data/checkpoint/digits/resnet20/demo/mine"
    taken.mkdir(parents=True)
    refuse(["--timestamp", "mine"], "--timestamp mine")


@pytest.mark.parametrize("flags", ["--lr fast", "--graph_topology expander --n_mpi_process 8"])
def test_from_the_shell(folder: Path, flags: str) -> None:
    done = run(folder, *flags.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("run.py: error: ")
    assert done.stderr.count("\n") == 1
    assert not (folder / "runs").exists()


def test_a_folder_that_cannot_be_made_is_one_line(folder: Path) -> None:
    """/proc says that root may write there; that it is not so is found when the run begins."""
    flags = ("--checkpoint", "/proc", "--backend", "sim", "--arch", "mlp", "--num_epochs", "1")
    done = run(folder, *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("run.py: error: --checkpoint")
    assert done.stderr.count("\n") == 1
