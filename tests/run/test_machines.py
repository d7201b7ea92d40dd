"""Machines that lack what others have: shared memory, short paths, locks, a job of their own."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pcode.utils.errors import USER_ERROR
from tests.run.runs import draw_images, finished, run, run_folder, write_rcv1
from tests.run.started import LIMIT_SECONDS, Started, started

__all__ = ["started"]

SMALL = ("--arch", "mlp", "--num_epochs", "1", "--train_fast", "True")
IMAGES_OF_A_CLASS = 24
LOADING = (
    *("--data", "imagenet", "--data_dir", "data", "--arch", "logistic_regression"),
    *("--num_epochs", "1", "--train_fast", "True", "--batch_size", "6", "--num_workers", "1"),
)
MOUNTED = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
# Of hosts that are none of this machine's.
JOB = {
    **{"SLURM_JOBID": "81", "SLURM_JOB_ID": "81", "SLURM_NNODES": "3", "SLURM_NTASKS": "8"},
    **{"SLURM_NODELIST": "gpu[07-09]", "SLURM_JOB_NODELIST": "gpu[07-09]"},
    "SLURM_TASKS_PER_NODE": "3(x2),2",
}
WITHOUT_LOCKS = """
#include <errno.h>
#include <stdlib.h>
int flock(int file, int operation) { errno = atoi(getenv("FLOCK_ERRNO")); return -1; }
"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder in which `LOADING` finds images."""
    draw_images(tmp_path, IMAGES_OF_A_CLASS)
    return tmp_path


def one_error(printed: str) -> str:
    (line,) = (line for line in printed.splitlines() if line.startswith("run.py: error: "))
    return line


def loaders_of(rank: int, folder: Path) -> list[psutil.Process]:
    """The loader processes of that rank, in a run whose temporary files lie in the folder."""
    environment = {"OMPI_COMM_WORLD_RANK": str(rank), "TMPDIR": str(folder)}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            server = process.parent()
            is_loader = server is not None and "forkserver" in " ".join(server.cmdline())
            if is_loader and environment.items() <= process.environ().items():
                found.append(process)
    return found


# A batch has 14 MB, that of the tests 29. MPI's own 16 MiB a rank take room as they are used.
@pytest.mark.parametrize(("backend", "megabytes"), [("sim", 1), ("mpi", 24)])
@pytest.mark.slow
def test_too_little_shared_memory_for_batches_is_one_line(
    images: Path, backend: str, megabytes: int
) -> None:
    mount = f"mount -t tmpfs -o size={megabytes}M tmpfs /dev/shm"
    if shutil.which("unshare") is None or subprocess.run([*MOUNTED, mount], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    done = run(
        images,
        *(*LOADING, "--backend", backend, "--batch_size", str(IMAGES_OF_A_CLASS)),
        before=[*MOUNTED, f'{mount} && exec "$0" "$@"'],
        python=sys.executable,
    )
    assert done.returncode == 1, done.stderr
    line = one_error(done.stderr)
    assert re.search(r"--num_workers 1: no room for a batch of \d+ MB in /dev/shm", line)
    assert line.startswith("run.py: error: rank ")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_names_its_own_loader_process(
    images: Path, started: list[Started], number: signal.Signals
) -> None:
    # A rate with which single images do not make it diverge meanwhile.
    flags = (*LOADING, "--data_dir", str(images / "data"), "--batch_size", "1", "--lr", ".001")
    mpi_run = Started(images, *flags, "--time_limit_seconds", "20", TMPDIR=str(images))
    started.append(mpi_run)
    deadline = time.monotonic() + LIMIT_SECONDS
    while not (found := loaders_of(1, images)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    loader = found[0]
    loader.send_signal(number)
    assert mpi_run.status() == 1
    line = one_error(mpi_run.errors.decode())
    assert line.startswith("run.py: error: rank 1, step ")
    assert "--num_workers 1: " in line
    assert str(loader.pid) in line


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sim", "mpi"])
def test_sockets_of_loaders_fit_where_temporary_files_have_a_long_path(
    images: Path, backend: str
) -> None:
    far = images / ("t" * 90)
    far.mkdir()
    finished(images, *LOADING, "--backend", backend, TMPDIR=str(far))


@pytest.mark.parametrize("hosts", [None, "localhost slots=2\n"])
def test_a_run_of_this_machine_stays_here_beside_another_job_s_variables(
    tmp_path: Path, hosts: str | None
) -> None:
    flags: tuple[str, ...] = ()
    if hosts is not None:
        (tmp_path / "hosts").write_text(hosts)
        flags = ("--hostfile", "hosts")
    finished(tmp_path, *SMALL, *flags, **JOB)


def test_variables_without_a_value_are_as_if_not_set(tmp_path: Path) -> None:
    names = ("OMP_NUM_THREADS", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "RANK", "WORLD_SIZE")
    also = ("TORCHELASTIC_RUN_ID", "SLURM_PROCID", "SLURM_STEP_ID", "MASTER_PORT", "NUMBA_OPT")
    done = run(tmp_path, *SMALL, python=sys.executable, **dict.fromkeys((*names, *also), ""))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("setting", ["NUMBA_DISABLE_JIT=1", "NUMBA_NUM_THREADS=0"])
def test_kernels_are_compiled_whatever_numba_is_told(tmp_path: Path, setting: str) -> None:
    name, _, value = setting.partition("=")
    finished(tmp_path, *SMALL, "--backend", "sim", python=sys.executable, **{name: value})


def test_the_variables_of_another_launcher_are_named(tmp_path: Path) -> None:
    done = run(tmp_path, *SMALL, "--backend", "sim", RANK="0", WORLD_SIZE="1")
    assert done.returncode == USER_ERROR
    assert "by RANK and WORLD_SIZE in the environment" in one_error(done.stderr)


@pytest.mark.parametrize(
    "number", [errno.ENOLCK, pytest.param(errno.EOPNOTSUPP, marks=pytest.mark.slow)]
)
def test_a_file_system_without_locks_is_done_without(tmp_path: Path, number: int) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    (tmp_path / "flock.c").write_text(WITHOUT_LOCKS)
    library = str(tmp_path / "flock.so")
    source = str(tmp_path / "flock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    write_rcv1(tmp_path / "data", num_train=32, num_test=32)
    flags = ("--data", "rcv1", "--data_dir", "data", "--arch", "logistic_regression")
    variables = {"LD_PRELOAD": library, "FLOCK_ERRNO": str(number)}
    finished(tmp_path, *flags, "--num_epochs", "1", python=sys.executable, **variables)
    assert (run_folder(tmp_path) / "summary.json").is_file()
    assert os.path.isfile(tmp_path / "data/rcv1_train.binary.kept")
