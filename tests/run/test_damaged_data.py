"""A file that turns out to be damaged while a run reads it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from pcode.utils.errors import USER_ERROR
from tests.run.runs import draw_images, run

IMAGES_OF_A_CLASS = 6


@pytest.mark.parametrize("backend", ["sim", pytest.param("mpi", marks=pytest.mark.slow)])
def test_a_damaged_image_ends_the_run_on_all_nodes_with_a_line(
    tmp_path: Path, temporary: str, backend: str
) -> None:
    draw_images(tmp_path, IMAGES_OF_A_CLASS)
    # Sorted shares: the last images are those of rank 1 alone.
    damaged = tmp_path / "data/imagenet/train/dog/5.JPEG"
    damaged.write_bytes(b"no image")
    done = run(
        tmp_path,
        *("--data", "imagenet", "--data_dir", "data", "--arch", "resnet18", "--num_workers", "1"),
        *("--partition_data", "sorted", "--batch_size", "3", "--num_epochs", "1"),
        *("--backend", backend),
        TMPDIR=temporary,
    )
    assert done.returncode == USER_ERROR, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("run.py: error: ")]
    assert len(errors) == 1
    assert "data/imagenet/train/dog/5.JPEG" in errors[0]
    assert ("rank 1: " in errors[0]) == (backend == "mpi")
    assert "Traceback" not in done.stderr
    # The server that starts a rank's readers ends when it finds that the rank has.
    left = [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(tmp_path)]
    assert psutil.wait_procs(left, timeout=30)[1] == []
