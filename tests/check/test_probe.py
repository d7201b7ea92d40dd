"""The probe says what is missing, on any Python that it claims to run on."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from pcode.check import probe
from tests.check.test_hosts import other_python
from tests.run.runs import RUN

SOURCE = Path(probe.__file__).read_text()


def ask(python: str, folder: Path, *packages: str) -> dict[str, Any]:
    settings = {
        "script": RUN,
        "folder": str(folder),
        "data_dir": "data",
        "checkpoint": "runs/here",
        "packages": packages,
    }
    command = [python, "-c", SOURCE, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    (line,) = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line.removeprefix(probe.MARK))
    return found


def test_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    found = ask(sys.executable, tmp_path, "torch", "PyYAML", "no-such-package")
    assert found["python"] == platform.python_version()
    assert found["packages"] == {
        "torch": metadata.version("torch"),
        "PyYAML": metadata.version("PyYAML"),
        "no-such-package": None,
    }
    assert found["sources"]["path"] == str(Path(RUN).parent / "pcode")
    assert "Open MPI" in found["mpi"]["version"]
    assert (found["script"], found["data_dir"], found["checkpoint"]) == (True, True, True)
    assert found["missing_folder"] is None


@pytest.mark.parametrize("version", ["v[:2] == (3, 8)", "v[:2] == (3, 13)", "v >= (3, 8)"])
def test_what_there_is_not(tmp_path: Path, version: str) -> None:
    python = other_python(
        f"{version} and __import__('importlib.util').util.find_spec('mpi4py') is None"
    )
    found = ask(python, tmp_path / "nowhere", "torch")
    assert found["packages"] == {"torch": None}
    assert found["mpi"]["version"] is None
    assert "mpi4py" in found["mpi"]["error"]
    assert found["missing_folder"] == str(tmp_path / "nowhere")
    assert found["data_dir"] is False
    assert len(found["sources"]["digest"]) == 64
