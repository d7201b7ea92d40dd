"""run.py as its user meets it: readers that go, Ctrl-C at any time, other working directories."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.runs import RUN, run
from tests.support.programs import quick_python

LIMIT_SECONDS = 120


@pytest.mark.parametrize("backend", ["sim", "mpi"])
def test_reader_that_goes_ends_the_run_quietly(tmp_path: Path, backend: str) -> None:
    """As in `run.py | head -1`."""
    process = subprocess.Popen(
        [
            *(quick_python(), RUN, "--checkpoint", str(tmp_path), "--arch", "mlp"),
            *("--num_epochs", "100000", "--backend", backend),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith(b"mlp ")
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(LIMIT_SECONDS) == 128 + signal.SIGPIPE


def test_ctrl_c_while_importing_leaves_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(
        "import signal, sys\nsys.stdout.write('importing\\n')\nsys.stdout.flush()\nsignal.pause()\n"
    )
    process = subprocess.Popen(
        [sys.executable, RUN],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=LIMIT_SECONDS) == (b"", b"")
    assert process.returncode == 130


def test_relative_paths_are_those_of_the_ranks_directory(tmp_path: Path) -> None:
    """But the file of flags lies where the user is."""
    (tmp_path / "there").mkdir()
    (tmp_path / "flags.yaml").write_text("arch: mlp\nnum_epochs: 1\n")
    done = run(tmp_path, "--config", "flags.yaml", "--work_dir", "there")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "there" / "runs").glob("digits/mlp/demo/*/summary.json"))) == 1
    assert not (tmp_path / "runs").exists()
