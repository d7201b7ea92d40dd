"""Real mpirun runs: exit status, signals, and no process left whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pcode.utils.errors import DIVERGED, PREEMPTED

if TYPE_CHECKING:
    from tests.launch.conftest import Launched

ODD_ARGUMENTS = ("a b", 'q"uote', "it's", "", "é", "new\nline", "$HOME", "*", "\\", "-x", "-n", "9")


def test_ranks_get_the_arguments_and_end_with_0_though_there_are_more_than_cores(
    launched: Launched,
) -> None:
    num_ranks = 2 * (os.cpu_count() or 1)
    launched.start("report", *ODD_ARGUMENTS, n_mpi_process=num_ranks)
    for event in launched.events("report", num_ranks):
        assert event["num_ranks"] == num_ranks
        assert event["arguments"] == list(ODD_ARGUMENTS)
    assert launched.status() == 0


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", socket.gethostname()])
def test_hostfile_of_this_machine_needs_no_ssh(
    launched: Launched, tmp_path: Path, host: str
) -> None:
    hostfile = tmp_path / "hosts, of mine"
    hostfile.write_bytes(f"# here\r\n{host} slots=3\r\n".encode())
    (tmp_path / "else where").mkdir()
    launched.start(
        "report",
        environ={"PATH": "/nonexistent"},
        n_mpi_process=3,
        hostfile=str(hostfile),
        mpi_env="LAUNCH_TEST=a b=c,OTHER=",
        work_dir=str(tmp_path / "else where"),
        mpi_path=str(Path(sys.executable).parents[1]),
        python_path=sys.executable,
    )
    for event in launched.events("report", 3):
        assert event["variable"] == "a b=c"
        assert event["folder"] == str(tmp_path / "else where")
    assert launched.status() == 0


def test_status_of_a_failing_rank_and_the_others_end(launched: Launched) -> None:
    launched.start("fail", "3")
    assert launched.status() == 3
    assert launched.errors.count(b"\n") == 1
    assert launched.errors.startswith(b"run.py: error: ")


def test_status_that_says_nothing_is_told(launched: Launched) -> None:
    launched.start("fail", "9")
    assert launched.status() == 9
    assert launched.errors == b"run.py: error: rank 1 ended with status 9\n"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("run.py: error: rank 1, peer 0: it is silent\n", ""),
        ("Traceback: something\n", "run.py: error: rank 1 ended the run\n"),
    ],
)
def test_rank_that_ends_all_by_mpi_leaves_one_error(
    launched: Launched, said: str, told: str
) -> None:
    launched.start("abort", "9", said)
    assert launched.status() == 9
    assert launched.errors.decode() == said + told


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_ending_signals_reach_the_ranks(launched: Launched, number: int, status: int) -> None:
    launched.start("wait")
    launched.events("ready")
    launched.launcher.send_signal(number)
    launched.events("SIGTERM")
    assert launched.status() == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_ranks_are_asked_to_save_and_their_status_is_the_launchers(
    launched: Launched, number: int
) -> None:
    launched.start("save", str(PREEMPTED))
    launched.events("ready")
    launched.launcher.send_signal(number)
    launched.events("SIGUSR1")
    assert launched.status() == PREEMPTED
    assert launched.errors == b""


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGUSR1])
def test_second_request_ends_the_ranks(launched: Launched, first: int, second: int) -> None:
    launched.start("ignore")
    launched.events("ready")
    launched.launcher.send_signal(first)
    launched.events("SIGUSR1")
    launched.launcher.send_signal(second)
    launched.events("SIGTERM")
    assert launched.status() == 128 + second


def test_ctrl_c_ends_ranks_that_save(launched: Launched) -> None:
    launched.start("ignore")
    launched.events("ready")
    launched.launcher.send_signal(signal.SIGUSR1)
    launched.events("SIGUSR1")
    launched.launcher.send_signal(signal.SIGINT)
    launched.events("SIGTERM")
    assert launched.status() == 130


def test_ranks_that_do_not_save_in_time_end(launched: Launched) -> None:
    launched.start("ignore", save_limit=0.2)
    launched.events("ready")
    launched.launcher.send_signal(signal.SIGTERM)
    launched.events("SIGUSR1")
    launched.events("SIGTERM")
    assert launched.status() == 143
    assert launched.errors == b"run.py: the ranks did not save within 0.2 s; ending them\n"


def test_ranks_that_die_of_the_request_end_with_its_status(launched: Launched) -> None:
    """As they do while they import: they have not asked for the signal yet."""
    launched.start("fail", "0", n_mpi_process=3)
    launched.events("ready", 3)
    launched.launcher.send_signal(signal.SIGTERM)
    assert launched.status() == 143
    assert launched.errors == b""


def test_ranks_that_ignore_signals_end(launched: Launched) -> None:
    launched.start("ignore")
    launched.events("ready")
    launched.launcher.send_signal(signal.SIGINT)
    launched.events("SIGTERM")
    assert launched.status() == 130


def test_ranks_inside_mpi_end(launched: Launched) -> None:
    launched.start("receive")
    launched.events("ready")
    launched.launcher.send_signal(signal.SIGINT)
    assert launched.status() == 130


def test_user_signals_and_unfinished_lines_pass_through(launched: Launched) -> None:
    launched.start("wait", n_mpi_process=1)
    launched.events("ready", 1)
    launched.read_errors(b"\rworking")
    launched.launcher.send_signal(signal.SIGUSR1)
    launched.events("SIGUSR1", 1)
    assert launched.status() == 0


def test_second_ctrl_c_does_not_wait_for_mpirun(launched: Launched) -> None:
    launched.start("ignore")
    launched.events("ready")
    launched.mpirun().suspend()
    launched.launcher.send_signal(signal.SIGINT)
    launched.read_errors(b"Ctrl-C again kills them")  # signals that are not yet taken are merged
    launched.launcher.send_signal(signal.SIGINT)
    assert launched.status() == 130


def test_mpirun_that_does_not_end_in_time_is_killed(launched: Launched) -> None:
    launched.start("ignore", limit=0.2)
    launched.events("ready")
    launched.mpirun().suspend()
    launched.launcher.send_signal(signal.SIGHUP)
    launched.read_errors(b"run.py: mpirun did not end within 0.2 s")
    assert launched.status() == 129


def block_of(status: int) -> str:
    """What mpirun says of a rank that ends with this status."""
    rule = 74 * "-"
    said = "prterun detected that one or more processes exited with non-zero status:\n\n"
    said += f"   Process name: [prterun-vm-18632@1,0]\n   Exit code:    {status}\n"
    return f"{rule}\n{said}{rule}\n"


ended_ranks = pytest.mark.parametrize(
    ("said", "status"),
    [
        ("", 1),
        (block_of(DIVERGED), DIVERGED),
        (block_of(PREEMPTED), PREEMPTED),
    ],
    ids=["no status", "diverged", "preempted"],
)


@ended_ranks
def test_mpirun_that_does_not_end_after_a_failure_is_killed(
    launched: Launched, said: str, status: int
) -> None:
    launched.start("complain", said, limit=0.2, n_mpi_process=1)
    assert launched.status() == status
    said = "run.py: error: it is silent\nrun.py: mpirun did not end within 0.2 s; "
    assert launched.errors.decode().startswith(said)


@ended_ranks
def test_mpirun_that_crashes_after_a_failure_does_not_hide_it(
    launched: Launched, said: str, status: int
) -> None:
    launched.start("complain", said, n_mpi_process=1)
    launched.read_errors(b"it is silent\n")
    launched.mpirun().send_signal(signal.SIGSEGV)
    assert launched.status() == status
    assert launched.errors == b"run.py: error: it is silent\n"


def test_killed_mpirun_leaves_no_rank_and_no_file(launched: Launched) -> None:
    launched.start("receive")
    launched.events("ready")
    mpirun = launched.mpirun()
    words = mpirun.cmdline()
    folder = Path(words[words.index("btl_sm_backing_directory") + 1])
    assert list(folder.glob("sm_segment.*"))
    mpirun.kill()
    assert launched.status() == 137
    assert launched.errors == b"run.py: error: mpirun was ended by signal 9\n"
    assert not folder.exists()


def test_killed_rank_ends_the_run(launched: Launched) -> None:
    launched.start("ignore")
    ready = launched.events("ready")
    os.kill(ready[1]["pid"], signal.SIGKILL)
    assert launched.status() == 137
    where = f"rank 1 (process {ready[1]['pid']} on {socket.gethostname()})"
    assert launched.errors.decode() == f"run.py: error: {where} was ended by signal 9 (Killed)\n"


def test_step_of_a_killed_rank_is_named(launched: Launched) -> None:
    launched.start("mark", str(1 << 40))
    ready = launched.events("ready")
    os.kill(ready[1]["pid"], signal.SIGKILL)
    assert launched.status() == 137
    assert launched.errors.decode().endswith(
        f" was ended by signal 9 (Killed) in step {(1 << 40) + 1}\n"
    )


def test_killed_launcher_leaves_no_rank(launched: Launched) -> None:
    launched.start("ignore")
    launched.events("ready")
    launched.launcher.kill()
    launched.await_end()
    launched.events("SIGTERM")


def test_children_of_ranks_end(launched: Launched) -> None:
    launched.start("leave_child")
    launched.events("child")
    assert launched.status() == 0


def test_ignored_signal_stays_ignored(launched: Launched) -> None:
    launched.start("wait", prefix=("nohup",))
    launched.events("ready")
    launched.launcher.send_signal(signal.SIGHUP)
    launched.launcher.send_signal(signal.SIGUSR1)
    launched.events("SIGUSR1")
    assert launched.status() == 0
