"""The Slurm scripts, submitted to a real Slurm on two hosts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.iccluster.slurm import Slurm, why_not
from tests.run.runs import finished, summary
from tests.support.hosts import Hosts
from tests.support.programs import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SCRIPTS = sorted((ROOT / "iccluster").glob("slurm-*.sh"))
SMALL = ("--arch", "mlp", "--num_epochs", "300")


@pytest.fixture(scope="module")
def slurm(hosts_possible: None) -> Iterator[Slurm]:
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no Slurm can be started here: {reason}")
    with Hosts(2) as hosts, ExitStack() as left:
        yield Slurm(hosts, left)


@pytest.fixture(autouse=True)
def cores(slurm: Slurm) -> Iterator[None]:
    """A job that a test leaves would keep the next from starting."""
    yield
    slurm.output("scancel", "--full", "--user=root")
    slurm.await_text(r"\A\s*\Z", "squeue", "--noheader")


@pytest.fixture(params=SCRIPTS, ids=lambda path: path.name)
def script(request: pytest.FixtureRequest, slurm: Slurm) -> Path:
    found: Path = request.param
    if found.name == "slurm-srun.sh" and not slurm.has_pmix:
        pytest.skip("this Slurm has no PMIx (Debian: libpmix-dev)")
    return found


def submit(slurm: Slurm, script: Path, folder: Path, *flags: str) -> tuple[str, Path]:
    """A job's number, and the file into which it prints."""
    output = folder / "job.out"
    run_flags = () if "--check" in flags else ("--checkpoint", str(folder / "runs"))
    argv = ["sbatch", "--parsable", f"--output={output}", str(script), *flags, *run_flags]
    return slurm.output(*argv).strip(), output


def state_at_end(slurm: Slurm, job: str) -> str:
    """Of a job that ends by itself."""
    ended = r"JobState=(COMPLETED|FAILED|CANCELLED|TIMEOUT)"
    return slurm.await_text(ended, "scontrol", "show", "job", job)


def test_both_hosts_are_checked(slurm: Slurm, script: Path, tmp_path: Path) -> None:
    job, output = submit(slurm, script, tmp_path, "--check")
    assert "ExitCode=0:0" in state_at_end(slurm, job), output.read_text()
    lines = output.read_text().splitlines()
    for start in ("ok     host-1: ranks 0 to 1,", "ok     host-2: ranks 2 to 3,"):
        (line,) = (line for line in lines if line.startswith(start))
        assert ", 4 threads a rank," in line
    assert lines[-1] == "nothing is wrong"


def test_a_job_whose_time_is_up_is_started_again_and_ends_as_if_never_stopped(
    slurm: Slurm, script: Path, tmp_path: Path
) -> None:
    alone, folder = tmp_path / "alone", tmp_path / "job"
    alone.mkdir()
    folder.mkdir()
    expected = finished(alone, *SMALL, "--n_mpi_process", "4", "--backend", "sim")
    job, output = submit(slurm, script, folder, *SMALL)
    slurm.await_text("epoch   2", "cat", str(output))
    # What Slurm does two minutes before the end; "B:" is for the batch script alone.
    batch = ["--batch"] if "--signal=B:USR1" in script.read_text() else []
    assert "JobState=RUNNING" in slurm.output("scontrol", "show", "job", job), "it ended too soon"
    slurm.output("scancel", *batch, "--signal=USR1", job)
    slurm.await_text(r"JobState=PENDING(.|\n)*Restarts=1", "scontrol", "show", "job", job)
    # Sooner than the two minutes that Slurm waits, but not in the second in which it revoked the
    # job's credential: they are told apart by whole seconds.
    slurm.output("scontrol", "update", f"jobid={job}", "starttime=now+3seconds")
    assert "ExitCode=0:0" in state_at_end(slurm, job), output.read_text()
    text = output.read_text()
    assert text.index("run.py: saved after step") < text.index("resumed after step")
    assert "Sorry!" not in text  # what PMIx says when it finds no help
    assert summary(folder)["parameters_sha256"] == expected["parameters_sha256"]


def test_a_user_s_mistake_ends_the_job_with_status_2(
    slurm: Slurm, script: Path, tmp_path: Path
) -> None:
    job, output = submit(slurm, script, tmp_path, "--num_epochs", "0")
    assert "ExitCode=2:0" in state_at_end(slurm, job), output.read_text()
    assert "--num_epochs 0" in output.read_text()
