"""The Dockerfile and what is built from it: linted, pinned, without secrets, run by nobody."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from environments.rehearsal.context import Context
from environments.rehearsal.dockerfile import Instruction, needed, read_stages
from environments.rehearsal.here import image_settings
from tests.support.programs import ROOT

DOCKER = ROOT / "environments/docker"
DOCKERFILE = DOCKER / "Dockerfile"
TARGETS = ("cpu", "cuda")
CODE = "/opt/choco-sgd/"


def lint(program: str, file: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name(program)), str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("program", "file"), [("hadolint", DOCKERFILE), ("shellcheck", DOCKER / "entrypoint")]
)
def test_linters_have_nothing_to_say(program: str, file: Path) -> None:
    done = lint(program, file)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("program", "text", "said"),
    [
        ("hadolint", "FROM debian:12\nRUN apt-get install --yes python3\n", "DL3008"),
        ("shellcheck", "#!/bin/sh\nrm -r $1\n", "SC2086"),
    ],
)
def test_linters_find_what_is_wrong(tmp_path: Path, program: str, text: str, said: str) -> None:
    file = tmp_path / "file"
    file.write_text(text)
    done = lint(program, file)
    assert done.returncode != 0
    assert said in done.stdout


def instructions(target: str) -> list[Instruction]:
    return [
        each for stage in needed(read_stages(DOCKERFILE), target) for each in stage.instructions
    ]


def pins() -> dict[str, str]:
    """Package and version, of both files."""
    found: dict[str, str] = {}
    for name in ("requirements.txt", "constraints.txt"):
        for line in (DOCKER / name).read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                package, equals, version = line.partition("==")
                assert equals, line
                assert package not in found, line
                found[package.replace("_", "-")] = version
    return found


def test_versions_are_those_that_the_package_asks_for() -> None:
    """Each of setup.py's requirements is pinned, to a version that it allows."""
    asked = [Requirement(text) for text in requires("choco-sgd") or ()]
    needed_to_run = [
        each for each in asked if each.marker is None or "extra" not in str(each.marker)
    ]
    assert len(needed_to_run) > 5
    for each in needed_to_run:
        assert each.specifier.contains(pins()[each.name.lower()]), each


def test_base_and_packages_are_pinned() -> None:
    stages = read_stages(DOCKERFILE)
    images = {stage.parent for stage in stages.values()} - set(stages)
    assert len(images) == 1
    assert re.fullmatch(r"debian:\d+\.\d+-slim", images.pop())
    runs = " ".join(each.value for each in instructions("cuda") if each.name == "RUN")
    packages = re.findall(r"apt-get install ((?:--\S+ +|[a-z0-9.+-]+=\S+ *)+)(\S*)", runs)
    assert len(packages) == 3
    assert {after for _, after in packages} == {"&&"}  # no package without a version


@pytest.mark.parametrize("target", TARGETS)
def test_a_container_is_not_root(target: str) -> None:
    image = image_settings(needed(read_stages(DOCKERFILE), target))
    assert image.user == "1000:1000"  # a number, which Kubernetes can check
    assert image.stop_signal == "SIGTERM"
    (program,) = image.entrypoint
    for path in (program, image.health[-1]):
        file = ROOT / path.removeprefix(CODE)
        assert file.is_file()
    assert (ROOT / program.removeprefix(CODE)).stat().st_mode & 0o111 == 0o111
    gpus = image.variables.get("NVIDIA_VISIBLE_DEVICES")
    assert gpus == ("all" if target == "cuda" else None)


def test_every_file_is_copied_from_the_context(tmp_path: Path) -> None:
    context = Context(ROOT)
    for number, each in enumerate(i for i in instructions("cuda") if i.name == "COPY"):
        *sources, _ = each.words({})
        for source in sources if "--from" not in each.value else ():
            context.copy(source, tmp_path / str(number), is_folder=True)
    copied = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert len(copied) > 100
    assert not any("__pycache__" in name or ".git" in name for name in copied)


def test_nothing_else_is_in_the_context(tmp_path: Path) -> None:
    """Neither keys nor data nor checkpoints that lie in the repository's folder."""
    for name in ("data/x", ".git/config", "id_rsa", "pcode/a.py", "pcode/__pycache__/a", "run.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".dockerignore").write_bytes((ROOT / ".dockerignore").read_bytes())
    assert Context(tmp_path).files == {".dockerignore", "pcode/a.py", "run.py"}


def test_the_keys_that_openssh_makes_go_in_the_same_step() -> None:
    (installing,) = (i for i in instructions("cuda") if "openssh-server" in i.value)
    assert installing.name == "RUN"
    assert "/etc/ssh/ssh_host_*" in installing.value.partition("rm -rf")[2]
