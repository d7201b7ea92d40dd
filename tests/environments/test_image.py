"""The Dockerfile as it stands: linted, pinned, without secrets, not for root."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.environments.engine import DOCKERFILE
from tests.support.programs import ROOT

DOCKER = DOCKERFILE.parent
# Continued lines are joined.
TEXT = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", "")


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
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", TEXT, re.MULTILINE)
    bases = {parent for parent, _ in stages} - {name for _, name in stages}
    assert len(bases) == 1
    assert re.fullmatch(r"debian:\d+\.\d+-slim", bases.pop())
    packages = re.findall(r"apt-get install ((?:--\S+ +|[a-z0-9.+-]+=\S+ *)+)(\S*)", TEXT)
    assert len(packages) == 3
    assert {after for _, after in packages} == {"&&"}  # no package without a version


def test_both_targets_end_as_a_user_with_a_number() -> None:
    """Which Kubernetes can check; the targets' own stages leave it as they find it."""
    for stage in re.split(r"^FROM ", TEXT, flags=re.MULTILINE):
        users = re.findall(r"^USER (.*)$", stage, re.MULTILINE)
        assert users == [] or users[-1] == "1000:1000"
    assert "AS application\n" in TEXT
    assert len(re.findall(r"^USER 1000:1000$", TEXT, re.MULTILINE)) == 2


def test_programs_that_the_image_starts_are_there() -> None:
    paths = re.findall(r'"/opt/choco-sgd/(\S+)"', TEXT)
    assert [Path(path).name for path in paths] == ["health.py", "entrypoint"]
    assert all((ROOT / path).is_file() for path in paths)
    assert (ROOT / paths[1]).stat().st_mode & 0o111 == 0o111


def test_the_keys_that_openssh_makes_go_in_the_same_step() -> None:
    (installing,) = re.findall(r"^RUN .*openssh-server=.*$", TEXT, re.MULTILINE)
    assert "/etc/ssh/ssh_host_*" in installing.partition("rm -rf")[2]
