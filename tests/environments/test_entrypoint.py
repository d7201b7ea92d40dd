"""What a container's first process does before, and as, it becomes the program."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import ROOT, quick_python

ENTRYPOINT = ROOT / "environments/docker/entrypoint"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def enter(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The entry point, with its temporary files and keys below `folder`."""
    return subprocess.run(
        [str(ENTRYPOINT), *arguments],
        env=environment(folder, **variables),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def environment(folder: Path, **variables: str) -> dict[str, str]:
    own = {
        "PATH": PATH,
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(folder),
        "SSH_KEYS": str(folder / "keys"),
    }
    return {**own, "HOME": str(folder), **variables}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The key pair of a run, made as the page on containers says."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("there is no ssh-keygen")
    done = enter(tmp_path, "keys")
    assert done.returncode == 0, done.stderr
    return tmp_path / "keys"


@pytest.mark.parametrize("first", [("run.py",), ()])
def test_flags_are_those_of_run_py(tmp_path: Path, first: tuple[str, ...]) -> None:
    path = f"{Path(quick_python()).parent}{os.pathsep}{PATH}"
    done = enter(tmp_path, *first, "--backend", "sim", "--arch", "none", PATH=path)
    assert done.returncode == 2
    assert done.stderr.startswith("run.py: error: --arch 'none' ")


def test_the_program_is_the_first_process_itself(tmp_path: Path) -> None:
    """What signals it gets are its own; there is no shell between."""
    program = "import signal; print('ready', flush=True); signal.pause()"
    process = subprocess.Popen(
        [str(ENTRYPOINT), "python", "-c", program],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert command.startswith(b"python\0")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM
    process.stdout.close()


def test_kernels_of_the_image_are_copied_to_where_others_can_be_added(tmp_path: Path) -> None:
    image, cache = tmp_path / "image", tmp_path / "tmp/cache"
    docker = image / "environments/docker"
    docker.mkdir(parents=True)
    script = shutil.copy2(ENTRYPOINT, docker)
    (image / "kernels/of-sources").mkdir(parents=True)
    (image / "kernels/of-sources/index").write_text("compiled")
    variables = environment(tmp_path, NUMBA_CACHE_DIR=str(cache))
    copied = cache / "of-sources/index"
    for text in ("compiled", "compiled here"):  # the second time there is one already
        subprocess.run([script, "true"], env=variables, check=True, timeout=60)
        assert copied.read_text() == text
        copied.write_text("compiled here")


def test_a_key_pair_is_made_once(keys: Path) -> None:
    assert {file.name for file in keys.iterdir()} == {"id_ed25519", "id_ed25519.pub"}
    assert stat.S_IMODE((keys / "id_ed25519").stat().st_mode) == 0o600
    before = (keys / "id_ed25519").read_bytes()
    again = enter(keys.parent, "keys")
    assert again.returncode == 2
    assert again.stderr == f"entrypoint: error: {keys} has a key already\n"
    assert (keys / "id_ed25519").read_bytes() == before


def test_settings_of_ssh_trust_this_key_and_no_other(keys: Path) -> None:
    """As ssh and sshd read them; the mounted key need not be closed to others, its copy is."""
    (keys / "id_ed25519").chmod(0o644)
    settings = keys.parent / "choco-sgd/ssh"
    done = enter(keys.parent, "sh", "-c", f'ssh -G -F "{settings}/ssh_config" a-host')
    assert done.returncode == 0, done.stderr
    client = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert client["port"] == "2222"
    assert client["stricthostkeychecking"] == "true"
    assert client["identityfile"] == f"{settings}/key"
    public = " ".join((keys / "id_ed25519.pub").read_text().split()[:2])
    assert public in (settings / "known_hosts").read_text()
    assert (settings / "authorized_keys").read_text().startswith(public)
    assert stat.S_IMODE((settings / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.stat().st_mode) == 0o700


def test_a_container_that_is_started_again_takes_its_key_again(keys: Path) -> None:
    """Also one that may only be read: run as a user whom permissions hold back."""
    (keys / "id_ed25519").chmod(0o440)
    for _ in range(2):
        done = enter(keys.parent, "true")
        assert (done.returncode, done.stderr) == (0, "")


def test_mpirun_is_told_how_to_reach_other_containers(keys: Path) -> None:
    done = enter(keys.parent, "printenv", "PRTE_MCA_plm_ssh_agent")
    assert done.stdout == f"ssh -F {keys.parent}/choco-sgd/ssh/ssh_config\n"


@pytest.mark.parametrize("mask", ["0022", "0027", "0077"])
@pytest.mark.parametrize("has_key", [True, False])
def test_what_a_run_writes_is_as_open_as_elsewhere(keys: Path, mask: str, has_key: bool) -> None:
    where = {} if has_key else {"SSH_KEYS": str(keys.parent / "nowhere")}
    before = os.umask(int(mask, 8))
    try:
        done = enter(keys.parent, "sh", "-c", "umask", **where)
    finally:
        os.umask(before)
    assert (done.returncode, done.stdout) == (0, f"{mask}\n")
    settings = keys.parent / "choco-sgd/ssh"
    assert settings.exists() == has_key
    if has_key:
        assert {file.stat().st_mode & 0o077 for file in (settings, *settings.iterdir())} == {0}


def test_a_worker_without_a_key_says_so(tmp_path: Path) -> None:
    done = enter(tmp_path, "worker")
    assert done.returncode == 2
    assert done.stderr.startswith(f"entrypoint: error: {tmp_path}/keys: no private key (")
    assert done.stderr.count("\n") == 1
