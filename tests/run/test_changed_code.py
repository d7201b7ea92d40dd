"""A run that is under way does not depend on files of the program any more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.run.runs import LIMIT_SECONDS, RUN, draw_images

# Runs, and says which modules were imported after the first step.
WATCHED = """
import sys

from pcode import main
from pcode.launch.scratch import StepMark
from pcode.training import loop

seen = set()
train = loop.Loop.train

def say(word):
    sys.stderr.write(" ".join([word, *sorted(set(sys.modules) - seen)]) + "\\n")

def watched(self):
    mark = self._mark_step
    def marked(step):
        mark(step)
        if step == 1 and not seen:
            seen.update(sys.modules)
    self._mark_step = marked
    summary = train(self)
    say("late:")
    return summary

loop.Loop.train = watched
status = main.main(sys.argv[1:])
say("later:")
sys.exit(status)
"""
SMALL = ("--n_mpi_process", "2", "--arch", "mlp", "--mlp_hidden_size", "16", "--num_epochs", "2")


@pytest.mark.parametrize(
    "flags",
    [
        ("--backend", "sim", "--train_fast", "True"),
        pytest.param(("--backend", "mpi"), marks=pytest.mark.slow),
        pytest.param(("--backend", "gloo"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_nothing_is_imported_after_the_first_step(tmp_path: Path, flags: tuple[str, ...]) -> None:
    (tmp_path / "watched.py").write_text(WATCHED)
    done = subprocess.run(
        [sys.executable, "watched.py", "--checkpoint", "runs", *SMALL, *flags],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(RUN).parent)},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    late = [line for line in done.stderr.splitlines() if line.startswith("late:")]
    assert late == ["late:"] * 2
    later = [line for line in done.stderr.splitlines() if line.startswith("later:")]
    assert later.count("later:") == (1 if "sim" in flags else 2), later


def spoilt_run(folder: Path, flags: Sequence[str]) -> tuple[int, str]:
    """Run a copy of the program whose files are spoilt after the first epoch: status and output."""
    copy = folder / "copy"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(RUN).parent / "pcode", copy / "pcode", ignore=ignored)
    shutil.copy(RUN, copy)
    process = subprocess.Popen(
        [sys.executable, str(copy / "run.py"), "--checkpoint", "runs", *flags],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(copy)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if line.startswith("epoch   1:"):
            for file in copy.rglob("*.py"):
                file.write_text("raise SystemExit('the program has changed')\n")
    return process.wait(LIMIT_SECONDS), output


@pytest.mark.parametrize(
    "backend",
    ["sim", *(pytest.param(each, marks=pytest.mark.slow) for each in ("mpi", "gloo"))],
)
def test_a_run_ends_well_whose_program_has_changed(tmp_path: Path, backend: str) -> None:
    flags = (*SMALL, "--num_epochs", "20", "--backend", backend)
    status, output = spoilt_run(tmp_path, flags)
    assert status == 0, output
    assert "results:" in output
    assert "changed" not in output


@pytest.mark.slow
def test_so_does_one_with_loader_processes(tmp_path: Path) -> None:
    draw_images(tmp_path, 12)
    flags = ("--data", "imagenet", "--data_dir", "data", "--arch", "logistic_regression")
    sizes = ("--batch_size", "4", "--lr", "1e-5", "--num_epochs", "4", "--backend", "sim")
    status, output = spoilt_run(tmp_path, (*flags, *sizes, "--n_mpi_process", "2"))
    assert status == 0, output
    assert "changed" not in output
