"""Real ranks: killed within an epoch, resumed, killed again; the bits are those of a simulation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.resume.children import finished
from tests.run import runs
from tests.run.runs import run_folder

SMALL = (
    *("--arch", "resnet8", "--n_mpi_process", "3", "--batch_size", "64", "--num_epochs", "3"),
    *("--data", "synthetic:3x8x8:4:1400", "--reshuffle_per_epoch", "True"),
)
OPTIMIZERS = [
    pytest.param(("--comm_op", "sign"), id="choco, sign"),
    pytest.param(("--optimizer", "sgd"), id="D-PSGD", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_killed_twice(tmp_path: Path, optimizer: tuple[str, ...]) -> None:
    (tmp_path / "whole").mkdir()
    want = finished(tmp_path / "whole", (*SMALL, *optimizer))
    always = ("--checkpoint_minutes", "1e-7")
    done = runs.run(tmp_path, *SMALL, *optimizer, *always, PCODE_INJECT="kill:1:5:exchange")
    assert done.returncode not in (0, 2), done.stderr
    resume = ("--resume", str(run_folder(tmp_path)))
    done = runs.run(tmp_path, *resume, PCODE_INJECT="kill:0:17:backward")
    assert done.returncode not in (0, 2), done.stderr
    assert runs.run(tmp_path, *resume).returncode == 0
    got = runs.summary(tmp_path)
    assert len(got["events"]) == 2
    assert got["parameters_sha256"] == want["parameters_sha256"]
