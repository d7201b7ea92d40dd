"""Starting run.py as a user does, and reading what it leaves."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.programs import quick_python, run_program

RUN = str(Path(__file__).parents[2] / "run.py")
LIMIT_SECONDS = 280


def run(
    folder: Path,
    *flags: str,
    before: Sequence[str] = (),
    python: str | None = None,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """`python run.py FLAGS` in `folder`, where its checkpoints go.

    Args:
        before: what starts the interpreter, if not the test itself.
        python: the interpreter; with `sys.executable`, everything is started as a user starts it.
        variables: added to the environment; one thread for each node unless they say otherwise.
    """
    return run_program(
        [*before, python or quick_python(), RUN, "--checkpoint", "runs", *flags],
        folder,
        LIMIT_SECONDS,
        {"OMP_NUM_THREADS": "1", **variables},
    )


def run_folder(folder: Path) -> Path:
    """The one run's folder in `folder`."""
    (found,) = (folder / "runs").glob("*/*/*/*")
    return found


def summary(folder: Path) -> dict[str, Any]:
    """summary.json of the one run in `folder`."""
    content: dict[str, Any] = json.loads((run_folder(folder) / "summary.json").read_text())
    return content


def finished(folder: Path, *flags: str, **options: Any) -> dict[str, Any]:
    """The summary of a run that has to end well."""
    done = run(folder, *flags, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return summary(folder)


def write_rcv1(folder: Path, *, num_train: int, num_test: int) -> None:
    """Write rcv1's files with so many rows: which of two features is there tells the class."""
    folder.mkdir(exist_ok=True)
    for name, count in (("rcv1_train.binary", num_train), ("rcv1_test.binary", num_test)):
        rows = [f"{'+-'[i % 2]}1 {i % 2 + 1}:1 {i + 1000}:0.1 47236:0.2\n" for i in range(count)]
        (folder / name).write_text("".join(rows), encoding="ascii")


def draw_images(folder: Path, images_of_a_class: int) -> None:
    """ImageNet in `folder`/data: small images of two classes, for training and for testing."""
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            place = folder / "data/imagenet" / part / label
            place.mkdir(parents=True)
            for number in range(images_of_a_class):
                Image.new("RGB", (64, 64), (number, 0, 0)).save(place / f"{number}.JPEG")
