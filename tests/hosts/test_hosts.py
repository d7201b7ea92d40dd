"""Hosts on one machine: names, links, rates, ways that are slow or cut, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pcode.utils.errors import UserError
from tests.hosts.talking import alive, mbit, reaches, run_on, tool
from tests.support.hosts import Hosts


def test_connections_have_one_congestion_control(four_hosts: Hosts) -> None:
    program = (
        "import socket\n"
        "with socket.create_connection(('host-2', 22), 10) as one:\n"
        "    print(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).decode())"
    )
    said = run_on(four_hosts, "host-1", sys.executable, "-c", program)
    assert said.stdout.rstrip("\0\n") == "reno"


def test_each_has_its_name_and_address_and_sees_only_its_own_network(four_hosts: Hosts) -> None:
    for number, name in enumerate(four_hosts.names, start=1):
        assert run_on(four_hosts, name, "hostname").stdout == f"{name}\n"
        assert f"10.77.0.{number}/24" in run_on(four_hosts, name, "ip", "addr").stdout
        assert run_on(four_hosts, name, "ls", "/sys/class/net").stdout == "eth0\nlo\n"
        assert run_on(four_hosts, name, "ls", "-A", "/dev/shm").stdout == ""
    found = run_on(four_hosts, "host-2", "getent", "hosts", "host-4").stdout
    assert found.split() == ["10.77.0.4", "host-4"]


def test_the_machine_itself_is_left_as_it_was(four_hosts: Hosts) -> None:
    links = subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
    assert "port1" not in links
    assert "bridge" not in links
    assert "host-1" not in Path("/etc/hosts").read_text()
    assert four_hosts.relay is None


def test_links_have_their_rate_in_both_directions(four_hosts: Hosts) -> None:
    four_hosts.network.set_rate("host-2", 10)
    # TCP's own headers take a little of it, what may leave at once adds a little.
    slow = [
        mbit(four_hosts, "host-1", "host-2", 2_000_000),
        mbit(four_hosts, "host-2", "host-3", 2_000_000),
    ]
    assert max(slow) < 11
    assert mbit(four_hosts, "host-1", "host-3", 20_000_000) > 1.5 * max(slow)


def test_one_way_between_two_hosts_is_slow_or_cut_and_the_others_are_not(
    four_hosts: Hosts,
) -> None:
    four_hosts.network.set_way("host-1", "host-2", 5)
    slow = mbit(four_hosts, "host-2", "host-1", 1_000_000)
    assert slow < 6
    assert mbit(four_hosts, "host-2", "host-3", 20_000_000) > 2 * slow
    four_hosts.network.set_way("host-1", "host-2", 0)
    assert not reaches(four_hosts, "host-1", "host-2")
    assert not reaches(four_hosts, "host-2", "host-1")
    assert reaches(four_hosts, "host-3", "host-2")
    four_hosts.network.clear_way("host-1", "host-2")
    assert mbit(four_hosts, "host-1", "host-2", 20_000_000) > 2 * slow


def test_bytes_that_leave_a_host_are_counted(four_hosts: Hosts) -> None:
    before = {name: four_hosts.bytes_sent(name) for name in four_hosts.names}
    mbit(four_hosts, "host-3", "host-4", 5_000_000)
    sent = {name: four_hosts.bytes_sent(name) - before[name] for name in four_hosts.names}
    assert 5_000_000 < sent["host-3"] < 5_250_000
    assert sent["host-1"] < 10_000
    assert sent["host-4"] < 250_000  # acknowledgements


def test_processes_on_hosts_end_with_them(hosts_possible: None) -> None:
    with Hosts(2) as hosts:
        command = hosts.command("host-2", ["sh", "-c", "sleep 1000 & echo $!; wait"])
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        grandchild = int(process.stdout.readline())
        assert Path(f"/proc/{grandchild}").exists()
        holders = [hosts.process(name) for name in hosts.names]
    assert process.wait(60) == -9
    process.stdout.close()
    assert not any(alive(pid) for pid in [grandchild, *holders])


def test_hosts_and_what_runs_there_go_when_their_maker_is_killed(
    hosts_possible: None, tmp_path: Path
) -> None:
    program = (
        "import subprocess\n"
        "from tests.support.hosts import Disturbance, Hosts\n"
        "hosts = Hosts(2, disturbance=Disturbance(1))\n"
        "command = hosts.command('host-2', ['sh', '-c', 'setsid sleep 1000 & echo $!; wait'])\n"
        "started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)\n"
        "print(started.stdout.readline(), started.pid)\n"
        "print(*map(hosts.process, hosts.names), hosts.relay.pid, flush=True)\n"
        "input()\n"
    )
    maker = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path)},  # what it cannot remove stays there
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert maker.stdout is not None
    processes = [int(word) for _ in range(3) for word in maker.stdout.readline().split()]
    assert len(processes) == 5
    maker.kill()
    maker.communicate(timeout=30)
    deadline = time.monotonic() + 30
    while any(map(alive, processes)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [0, -1, 251])
def test_a_number_that_cannot_be_is_refused(number: int) -> None:
    with pytest.raises(UserError, match=f"{number} hosts: from 1 to 250"):
        Hosts(number)


def test_the_tool_runs_a_command_on_the_first_host(hosts_possible: None, tmp_path: Path) -> None:
    file = tmp_path / "hosts.txt"
    done = tool(
        *("--hosts", "3", "--slots", "2", "--hostfile", str(file)),
        *("--", "sh", "-c", f"hostname; cat {file}; exit 7"),
    )
    lines = ["host-1", "host-1 slots=2", "host-2 slots=2", "host-3 slots=2"]
    assert done.stdout.splitlines() == lines
    assert (done.returncode, done.stderr) == (7, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hosts", "0", "--", "true"], "0 hosts: from 1 to 250 are possible"),
        (["--slots", "0", "--", "true"], "--slots 0: at least 1 is needed"),
        (["--rate_mbit", "0", "--", "true"], "--rate_mbit 0.0: must be above 0"),
        (["--", "no-such-program"], "no-such-program: no such program"),
    ],
)
def test_the_tool_refuses_what_cannot_be(arguments: list[str], message: str) -> None:
    done = tool(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"hosts: error: {message}\n"
