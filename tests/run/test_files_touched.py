"""A run writes into its own folder, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.bad_input import listing
from tests.run.runs import LIMIT_SECONDS, RUN, finished

PACKAGE = Path(RUN).parent / "pcode"


def sources() -> set[str]:
    """What lies in the package, without what Python keeps there."""
    return {path for path in listing(PACKAGE) if "__pycache__" not in path}


def test_a_run_writes_its_folder_alone(tmp_path: Path) -> None:
    for name in ("home", "work", "temporary", "kernels"):
        (tmp_path / name).mkdir()
    (tmp_path / "home/.profile").write_text("mine\n")
    before, package = listing(tmp_path), sources()
    needed = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "LANG")
    done = subprocess.run(
        [sys.executable, RUN, "--backend", "sim", "--arch", "mlp", "--num_epochs", "1"],
        cwd=tmp_path / "work",
        env={
            **{name: os.environ[name] for name in needed if name in os.environ},
            "HOME": str(tmp_path / "home"),
            "TMPDIR": str(tmp_path / "temporary"),
            # Compiled kernels, which all runs of a user share.
            "NUMBA_CACHE_DIR": str(tmp_path / "kernels"),
            "OMP_NUM_THREADS": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    after = listing(tmp_path)
    assert {path: after[path] for path in before} == before
    assert sources() == package
    (run,) = (tmp_path / "work/data/checkpoint/digits/mlp/demo").iterdir()
    assert (run / "summary.json").is_file()
    elsewhere = [
        path
        for path in sorted(Path(path) for path in after if path not in before)
        if not path.is_relative_to(run) and path not in run.parents
        if not path.is_relative_to(tmp_path / "kernels")
    ]
    # torch makes an empty folder for its compiler when it is imported.
    theirs = [path for path in elsewhere if path.name.startswith("torchinductor_")]
    assert elsewhere == theirs
    assert not any(any(path.iterdir()) for path in theirs)


@pytest.mark.parametrize("umask", ["022", "027", "077"])
def test_files_of_a_run_follow_the_umask(tmp_path: Path, umask: str) -> None:
    flags = ("--backend", "sim", "--arch", "mlp", "--num_epochs", "1", "--save_all_models", "True")
    finished(tmp_path, *flags, before=("sh", "-c", f'umask {umask}; exec "$0" "$@"'))
    closed = int(umask, 8)
    found = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "runs").rglob("*")}
    assert {mode for path, mode in found.items() if path.is_dir()} == {0o777 & ~closed}
    assert {mode for path, mode in found.items() if path.is_file()} == {0o666 & ~closed}
