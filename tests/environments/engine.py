"""Images and containers of the tests: buildah builds the Dockerfile, podman runs the images."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.programs import ROOT

DOCKERFILE = ROOT / "environments/docker/Dockerfile"
TARGETS = ("cpu", "cuda")
_PROGRAMS = ("buildah", "podman", "runc", "debootstrap", "unshare", "nsenter")
_BUILD_GIGABYTES = 35
_DEBIAN_SUITE = "bookworm"
# What the published image has: those of the archive and of its updates.
_APT_SOURCES = """\
deb http://deb.debian.org/debian bookworm main
deb http://deb.debian.org/debian bookworm-updates main
deb http://deb.debian.org/debian-security bookworm-security main
"""
_STORAGE_CONF = """\
[storage]
driver = "overlay"
graphroot = "{folder}/storage"
runroot = "{folder}/run"
"""
# The limits are low enough for whoever may not raise his own.
_CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
runtime = "runc"
static_dir = "{folder}/libpod"
tmp_dir = "{folder}/tmp"
volume_path = "{folder}/volumes"
"""
# The namespaces live until nobody has the FIFO open any more. Files are removed outside of them,
# where nothing is mounted below the folder, whatever a killed build has left.
_KEEP = """
unshare --mount --propagation private --pid --fork --mount-proc sh -c '
    echo ready
    cat "$1/users"
    exec podman rm --all --force --time 0 > /dev/null 2>&1' sh "$1" &
echo $!
wait
rm -rf "$1"
"""


def why_not(folder: Path) -> str | None:
    """Why no image can be built in `folder`, or None where it can."""
    if sys.platform != "linux":
        return "containers need Linux"
    if os.geteuid() != 0:
        return "images are built by root"
    for program in _PROGRAMS:
        if shutil.which(program) is None:
            return f"no {program} found (Debian's packages buildah, podman, runc, debootstrap)"
    if shutil.disk_usage(folder).free < _BUILD_GIGABYTES * 1e9:
        return f"{folder} has less than {_BUILD_GIGABYTES} GB free"
    return None


class Engine:
    """Storage of images and containers in a folder, and namespaces in which they are made.

    Args:
        folder: of the storage.
        keeper: id of the process whose namespaces of mounts, and whose children's of processes,
            everything runs in.
    """

    def __init__(self, folder: Path, keeper: int) -> None:
        self.folder = folder
        self._enter = [
            *("nsenter", f"--mount=/proc/{keeper}/ns/mnt"),
            f"--pid=/proc/{keeper}/ns/pid_for_children",
        ]

    def command(self, *words: str, network: int | None = None) -> list[str]:
        """The command that runs `words`, buildah's or podman's, on the engine's storage.

        Args:
            network: a process in whose network it runs; None: that of this process.
        """
        outer = [] if network is None else ["nsenter", f"--net=/proc/{network}/ns/net"]
        return [*outer, *self._enter, "env", *_variables(self.folder), *words]

    def output(self, *words: str) -> str:
        """What a command prints on stdout.

        Raises:
            AssertionError: it fails.
        """
        done = subprocess.run(self.command(*words), capture_output=True, text=True, check=False)
        assert done.returncode == 0, (
            f"{' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
        return done.stdout

    def image_settings(self, target: str) -> dict[str, Any]:
        """How a container of the target's image is started, in Docker's words."""
        found = json.loads(self.output("podman", "image", "inspect", image(target)))
        return {**found[0]["Config"], "Healthcheck": found[0]["Healthcheck"]}

    def build_targets(self) -> None:
        """Build both targets from the Dockerfile as it stands.

        Raises:
            AssertionError: a step fails, or the archive has another Debian than the Dockerfile.
        """
        self._make_base()
        sources = _package_sources(self.folder)
        for target in TARGETS:
            build = ["buildah", "build", "--isolation", "chroot", "--format", "docker", "--layers"]
            build += ["--target", target, "--tag", image(target), *sources]
            self.output(*build, "--file", str(DOCKERFILE), str(ROOT))

    def _make_base(self) -> None:
        """Make the Dockerfile's base image, as near as debootstrap comes to the published one."""
        folder = self.folder / "debian"
        self.output("debootstrap", "--variant=minbase", _DEBIAN_SUITE, str(folder))
        version = (folder / "etc/debian_version").read_text(encoding="utf-8").strip()
        name = f"debian:{version}-slim"
        assert f"FROM {name} AS" in DOCKERFILE.read_text(encoding="utf-8"), name
        (folder / "etc/apt/sources.list").write_text(_APT_SOURCES, encoding="utf-8")
        container = self.output("buildah", "from", "scratch").strip()
        self.output("buildah", "add", container, str(folder), "/")
        self.output("buildah", "commit", "--rm", container, name)
        shutil.rmtree(folder)


def image(target: str) -> str:
    """The image's name, by the target of the Dockerfile."""
    return f"choco-sgd:{target}"


@contextmanager
def shared_engine(folder: Path) -> Iterator[Engine]:
    """The engine of a folder, with both images; all processes that ask for it share one.

    Whoever asks first makes it, and the others wait. When the last of them is done with it, or
    has been killed, all its containers, mounts and files go.
    """
    keeper = None
    try:
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                keeper = _keep(folder)
            users = os.open(folder / "users", os.O_WRONLY)
            try:
                engine = Engine(folder, int((folder / "keeper").read_text(encoding="utf-8")))
                if keeper is not None:
                    engine.build_targets()
            except BaseException:
                os.close(users)
                raise
        try:
            yield engine
        finally:
            os.close(users)
    finally:
        if keeper is not None:
            keeper.wait()


def _keep(folder: Path) -> subprocess.Popen[bytes]:
    """Start the process that holds the namespaces of an engine."""
    folder.mkdir()
    os.mkfifo(folder / "users")
    for name, text in (("storage", _STORAGE_CONF), ("containers", _CONTAINERS_CONF)):
        (folder / f"{name}.conf").write_text(text.format(folder=folder), encoding="utf-8")
    keeper = subprocess.Popen(
        ["env", *_variables(folder), "sh", "-c", _KEEP, "sh", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,  # it ends after these tests, however they are ended
    )
    assert keeper.stdout is not None
    process, ready = sorted(keeper.stdout.readline() for _ in range(2))
    assert ready == b"ready\n"
    keeper.stdout.close()
    (folder / "keeper").write_bytes(process)
    return keeper


def _variables(folder: Path) -> list[str]:
    return [
        f"CONTAINERS_STORAGE_CONF={folder}/storage.conf",
        f"CONTAINERS_CONF={folder}/containers.conf",
        f"TMPDIR={folder}",
    ]


def _package_sources(folder: Path) -> list[str]:
    """Options with which a build takes Python's packages from where this machine's pip does.

    That is pip's configuration as a file of the build, and below /mnt the files that it may name.
    """
    list_settings = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(list_settings, capture_output=True, text=True, check=True).stdout
    settings: dict[str, str] = {}
    for line in sorted(listed.splitlines(), reverse=True):  # the environment's, `:env:.`, hold
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = " ".join(ast.literal_eval(value).split())
    text = "".join(f"{name} = {value}\n" for name, value in settings.items())
    # An absolute path, or that of a file: address.
    text = re.sub(r"(?<=file://)/|(?<=[ ,])/(?=\S)", "/mnt/", text)
    file = folder / "pip.conf"
    file.write_text(f"[global]\n{text}", encoding="utf-8")
    return ["--volume", f"{file}:/etc/pip.conf:ro", "--volume", "/:/mnt:ro"]
