"""Checks over several hosts: whatever is wrong with one of them is found, and by its name."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pcode
from tests.check.checking import Checked, check_over, hide, on
from tests.run.runs import RUN, run
from tests.support.hosts import Hosts
from tests.support.programs import quick_python

ROWS = re.compile(r"^ {7}(\d+-\d+) +(\S+(?:, \S+)?) +([\d.]+) +([\d,.]+) +([\d,.]+) +[\d.]+$", re.M)


@pytest.fixture
def three_hosts(hosts_possible: None) -> Iterator[Hosts]:
    with Hosts(3) as hosts:
        yield hosts


def rows(checked: Checked) -> dict[str, tuple[str, float, float]]:
    """Ranks -> hosts and the bandwidth in both directions, in Mbit/s."""
    return {
        ranks: (hosts, float(there.replace(",", "")), float(back.replace(",", "")))
        for ranks, hosts, _, there, back in ROWS.findall(checked.output)
    }


def others_are_fine(checked: Checked, *names: str) -> bool:
    """Whether these hosts, and no others, have a line that says so."""
    lines = [line.partition(":")[0] for line in checked.marked("ok")]
    return [line for line in lines if line.startswith("host-")] == list(names)


@pytest.mark.parametrize("backend", ["mpi", pytest.param("gloo", marks=pytest.mark.slow)])
def test_good_hosts_and_every_edge_with_its_rate(
    four_hosts: Hosts, tmp_path: Path, backend: str
) -> None:
    for name in four_hosts.names:
        four_hosts.network.set_rate(name, 100)
    checked = check_over(four_hosts, tmp_path, "--backend", backend, slots=2)
    # A busy core may make an edge slow.
    assert [wrong for wrong in checked.wrong if not wrong.startswith("slow: ")] == []
    assert others_are_fine(checked, *four_hosts.names)
    assert "every host reaches every other" in checked.marked("ok")
    found = rows(checked)
    assert list(found) == ["0-1", "0-7", "1-2", "2-3", "3-4", "4-5", "5-6", "6-7"]
    assert found["0-1"][0] == "host-1"
    assert found["0-7"][0] == "host-1, host-4"
    for hosts, *bandwidths in found.values():
        if ", " in hosts:  # never faster than the link; what else runs here only makes it slower
            assert all(bandwidth < 130 for bandwidth in bandwidths)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["mpi", "gloo"])
def test_a_slow_way_between_two_hosts(four_hosts: Hosts, tmp_path: Path, backend: str) -> None:
    four_hosts.network.set_way("host-2", "host-3", 10)
    checked = check_over(four_hosts, tmp_path, "--backend", backend)
    (wrong,) = checked.wrong
    assert wrong.startswith("slow: ranks 1 and 2 (host-2 and host-3): ")
    assert wrong.endswith(("Mbit/s", *"0123456789"))
    assert "; the median between hosts is " in wrong
    _, there, back = rows(checked)["1-2"]
    assert there < 13
    assert back < 13


@pytest.mark.slow
def test_hosts_that_do_not_answer(three_hosts: Hosts, tmp_path: Path) -> None:
    three_hosts.network.set_way("host-1", "host-3", 0)
    checked = check_over(three_hosts, tmp_path, more="nowhere slots=1\n")
    assert others_are_fine(checked, "host-1", "host-2")
    assert checked.wrong == [
        "host-3: agent: connect to host host-3 port 22: Connection timed out",
        "nowhere: agent: connect to host nowhere port 22: Temporary failure in name resolution",
    ]


@pytest.mark.slow
def test_a_host_that_takes_too_long(three_hosts: Hosts, tmp_path: Path) -> None:
    flags = (*choosing(tmp_path, "host-2", "sleep 1000 #"), "--time_limit_seconds", "10")
    checked = check_over(three_hosts, tmp_path, *flags)
    assert checked.wrong == ["host-2: no end within 10 s"]
    assert others_are_fine(checked, "host-1", "host-3")


@pytest.mark.slow
def test_two_hosts_that_do_not_reach_each_other(four_hosts: Hosts, tmp_path: Path) -> None:
    four_hosts.network.set_way("host-2", "host-4", 0)
    checked = check_over(four_hosts, tmp_path)
    assert checked.wrong == ["host-2 and host-4 do not reach each other: 10.77.0.4: timed out"]
    assert others_are_fine(checked, *four_hosts.names)


def test_an_mpirun_over_all_hosts_that_fails(three_hosts: Hosts, tmp_path: Path) -> None:
    """A host answers when it is asked alone, and fails when it is to connect to the others."""
    python, connects = sys.executable, r"\"port\":"  # as the settings of that request have it
    fails = f"sh -c 'case $* in *{connects}*) exit 9;; esac; exec $0 \"$@\"' {python}"
    checked = check_over(three_hosts, tmp_path, *choosing(tmp_path, "host-2", fails))
    (wrong,) = checked.wrong
    assert wrong.startswith("one mpirun over all hosts: ")
    assert others_are_fine(checked, *three_hosts.names)


def other_python(fits: str) -> str:
    """Another interpreter on this machine, of a version for which the expression holds."""
    own = Path.home() / ".pyenv" / "versions"
    found = [str(path) for path in [*own.glob("*/bin/python"), Path("/usr/bin/python3")]]
    program = f"import sys; v = sys.version_info; sys.exit(not ({fits}))"
    for path in sorted(found):
        if (
            shutil.which(path)
            and subprocess.run([path, "-c", program], check=False).returncode == 0
        ):
            return path
    pytest.skip(f"no Python with {fits} on this machine")


def choosing(folder: Path, host: str, interpreter: str) -> tuple[str, str]:
    """The flag for an interpreter that is another one on that host."""
    chooser = folder / "python"
    chooser.write_text(
        f'#!/bin/sh\ntest "$(hostname)" = {host} && exec {interpreter} "$@"\n'
        f'exec {sys.executable} "$@"\n'
    )
    chooser.chmod(0o755)
    return "--python_path", str(chooser)


def test_another_python(three_hosts: Hosts, tmp_path: Path) -> None:
    own = ".".join(map(str, sys.version_info[:3]))
    python = other_python(f"v >= (3, 8) and v[:3] != {sys.version_info[:3]}")
    checked = check_over(three_hosts, tmp_path, *choosing(tmp_path, "host-3", python))
    assert others_are_fine(checked, "host-1", "host-2")
    assert all(line.startswith("host-3: ") for line in checked.wrong)
    assert any(
        re.fullmatch(rf"host-3: Python [\d.]+, the others have {re.escape(own)}", line)
        for line in checked.wrong
    )


def test_a_python_that_is_too_old_to_ask(three_hosts: Hosts, tmp_path: Path) -> None:
    python = other_python("v < (3, 8)")
    checked = check_over(three_hosts, tmp_path, *choosing(tmp_path, "host-2", python))
    (wrong,) = checked.wrong
    assert re.fullmatch(r"host-2: Python [\d.]+ cannot run this program; .*", wrong)
    assert others_are_fine(checked, "host-1", "host-3")


def test_no_python_at_its_path(three_hosts: Hosts, tmp_path: Path) -> None:
    folder = tmp_path / "programs"
    folder.mkdir()
    hide(three_hosts, "host-2", folder)
    checked = check_over(three_hosts, tmp_path, *choosing(folder, "nobody", "false"))
    assert checked.wrong == [
        f"host-2: no program {folder}/python there; --python_path names the interpreter"
    ]


def test_a_missing_package(three_hosts: Hosts, tmp_path: Path) -> None:
    spec = importlib.util.find_spec("numba")
    assert spec is not None
    assert spec.origin is not None
    hide(three_hosts, "host-2", Path(spec.origin).parent)
    checked = check_over(three_hosts, tmp_path)
    assert checked.wrong == [f"host-2: not installed, or damaged: numba (for {quick_python()})"]
    assert others_are_fine(checked, "host-1", "host-3")


def test_other_code(three_hosts: Hosts, tmp_path: Path) -> None:
    assert pcode.__file__ is not None
    own = Path(pcode.__file__).parent / "utils/seeding.py"
    other = tmp_path / "seeding.py"
    other.write_text(own.read_text() + "\n# changed\n")
    on(three_hosts, "host-3", "mount", "--bind", str(other), str(own))
    checked = check_over(three_hosts, tmp_path)
    (wrong,) = checked.wrong
    digest = r"[0-9a-f]{12}"
    assert re.fullmatch(
        rf"host-3: code of pcode and run.py, digest {digest}, the others have {digest}", wrong
    )


def test_files_that_are_not_there(three_hosts: Hosts, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    hide(three_hosts, "host-2", tmp_path)
    hide(three_hosts, "host-3", Path(RUN).parent)
    checked = check_over(three_hosts, folder)
    assert checked.wrong[0] == (
        f"host-2: no folder {folder} there, for ranks to start in; --work_dir"
    )
    assert checked.wrong[1] == (
        "host-3: run.py is not there: it has to lie at the same place on every host"
    )


@pytest.mark.slow
def test_a_name_at_which_gloo_is_not_reached(three_hosts: Hosts, tmp_path: Path) -> None:
    names = tmp_path / "hosts"
    lines = [f"{three_hosts.address(name)} {name}\n" for name in three_hosts.names]
    names.write_text("".join(["127.0.0.1 localhost\n", "127.0.1.1 host-2\n", *lines]))
    on(three_hosts, "host-2", "mount", "--bind", str(names), "/etc/hosts")
    checked = check_over(three_hosts, tmp_path, "--backend", "gloo")
    (wrong,) = checked.wrong
    assert wrong.startswith("host-2: its own name, host-2, stands for 127.0.1.1 there, so gloo")
    assert wrong.endswith("--mpi_env GLOO_SOCKET_IFNAME=eth0")
    # What it advises works, and a run without it does not.
    good = check_over(
        three_hosts, tmp_path, "--backend", "gloo", "--mpi_env", "GLOO_SOCKET_IFNAME=eth0"
    )
    assert good.wrong == []


def test_too_few_slots_are_refused_as_ever(three_hosts: Hosts, tmp_path: Path) -> None:
    hostfile = tmp_path / "hostfile"
    three_hosts.write_hostfile(hostfile, 1)
    done = run(tmp_path, "--check", "--hostfile", str(hostfile), "--n_mpi_process", "4")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "run.py: error: --n_mpi_process 4: the hostfile has 3 slots on 3 hosts; raise slots= or "
        "lower --n_mpi_process\n"
    )
