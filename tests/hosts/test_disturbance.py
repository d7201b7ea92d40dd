"""Hosts that are far apart, lose packets, or compute slowly."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pcode.utils.errors import UserError
from tests.hosts.talking import TALK, mbit, reaches, run_on, tool
from tests.support.hosts import Disturbance, Hosts, why_no_limit

pytestmark = pytest.mark.usefixtures("hosts_possible")


@contextmanager
def echoing(hosts: Hosts, name: str) -> Iterator[None]:
    """A host that sends datagrams back."""
    command = hosts.command(name, [*TALK, "echo"])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
            yield
        finally:
            process.kill()


def answers(hosts: Hosts, count: int, limit_seconds: float) -> list[tuple[int, float]]:
    """The datagrams from host-1 that come back from host-2: number and milliseconds of each."""
    with echoing(hosts, "host-2"):
        words = ["ask", "host-2", str(count), str(limit_seconds)]
        asked = run_on(hosts, "host-1", *TALK, *words)
    assert asked.returncode == 0, asked.stderr
    return [(number, seconds * 1e3) for number, seconds in json.loads(asked.stdout)]


def test_a_round_trip_takes_twice_the_latency() -> None:
    with Hosts(2, disturbance=Disturbance(latency_ms=20)) as hosts:
        times = [time for _, time in answers(hosts, 10, 30.0)]
    assert len(times) == 10
    assert min(times) >= 40


def test_jitter_varies_the_delay_and_keeps_the_order() -> None:
    with Hosts(2, disturbance=Disturbance(latency_ms=10, jitter_ms=8)) as hosts:
        times = [time for _, time in answers(hosts, 20, 30.0)]
        at_once = [number for number, _ in answers(hosts, 100, 0.0)]
        mbit(hosts, "host-1", "host-2", 1_000_000)
    assert min(times) >= 4
    assert max(times) - min(times) > 5
    assert at_once == list(range(100))


def test_the_share_that_was_asked_for_gets_lost() -> None:
    with Hosts(2, disturbance=Disturbance(loss=0.1)) as hosts:
        answered = len(answers(hosts, 300, 0.01))
    # There and back: 243 on average, with a standard deviation of 7.
    assert 215 < answered < 271


def segments_sent_again(hosts: Hosts, name: str) -> int:
    """By TCP, since the host was made."""
    lines = run_on(hosts, name, "cat", "/proc/net/snmp").stdout.splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")])


def test_losses_hit_single_packets_of_a_connection_that_comes_whole() -> None:
    with Hosts(2, disturbance=Disturbance(loss=0.01)) as hosts:
        mbit(hosts, "host-1", "host-2", 2_000_000)
        again = segments_sent_again(hosts, "host-1")
    # Of 1400. Reno may send again more than was lost, but nothing like all of a super-packet.
    assert 3 <= again < 100


def test_links_have_their_rate_and_ways_are_slow_or_cut_where_all_is_disturbed() -> None:
    with Hosts(3, 10, Disturbance(latency_ms=1)) as hosts:
        assert mbit(hosts, "host-1", "host-2", 500_000) < 12
        hosts.network.set_rate("host-2", 5)
        assert mbit(hosts, "host-2", "host-3", 250_000) < 7
        hosts.network.set_way("host-1", "host-3", 2)
        assert mbit(hosts, "host-3", "host-1", 150_000) < 4
        hosts.network.set_way("host-1", "host-3", 0)
        assert not reaches(hosts, "host-1", "host-3")
        hosts.network.clear_way("host-1", "host-3")
        assert reaches(hosts, "host-1", "host-3")


def test_it_is_as_the_kernels_own() -> None:
    figures = []
    delay, loss = 20, 0.1
    with Hosts(2) as hosts:
        netem = f"qdisc replace dev eth0 root netem delay {delay}ms loss {loss:.0%}"
        for name in hosts.names:
            done = run_on(hosts, name, "tc", *netem.split())
            if done.returncode != 0:
                pytest.skip(f"the kernel has no netem: {done.stderr.strip()}")
        figures.append(answers(hosts, 100, 0.1))
    with Hosts(2, disturbance=Disturbance(delay, loss=loss)) as hosts:
        figures.append(answers(hosts, 100, 0.1))
    theirs, ours = (statistics.median(time for _, time in each) for each in figures)
    assert ours == pytest.approx(theirs, abs=5)
    # 81 on average, with a standard deviation of 4.
    assert all(62 < len(each) < 99 for each in figures)


def test_what_forwards_is_missed_when_it_has_ended() -> None:
    message = "relay.py, which the hosts need, has ended with status -9"
    hosts = Hosts(2, disturbance=Disturbance())
    assert hosts.relay is not None
    hosts.relay.kill()
    hosts.relay.wait()
    with pytest.raises(RuntimeError, match=message):
        hosts.command("host-1", ["true"])
    with pytest.raises(RuntimeError, match=message):
        hosts.close()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latency_ms": -1}, "latency_ms -1: must be at least 0"),
        ({"latency_ms": float("nan")}, "latency_ms nan: must be at least 0"),
        ({"latency_ms": 2, "jitter_ms": 3}, "jitter_ms 3: must be from 0 to the latency"),
        ({"loss": 1}, "loss 1: must be at least 0 and below 1"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Disturbance(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--latency_ms -1", "--latency_ms -1.0: must be at least 0"),
        ("--jitter_ms 1", "--jitter_ms 1.0: must be from 0 to the latency"),
        ("--loss_percent 100", "--loss_percent 100.0: must be at least 0 and below 100"),
    ],
)
def test_the_tool_refuses_it_too(flags: str, message: str) -> None:
    done = tool(*flags.split(), "--", "true")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"hosts: error: {message}\n"


def test_the_tool_disturbs_what_the_command_sends() -> None:
    program = (
        "import socket, time\n"
        "begin = time.perf_counter()\n"
        "socket.create_connection(('host-2', 22)).close()\n"
        "print(time.perf_counter() - begin >= .02)"
    )
    flags = "--latency_ms 10 --jitter_ms 0 --loss_percent 0 --"
    done = tool(*flags.split(), sys.executable, "-c", program)
    assert (done.stdout, done.stderr) == ("True\n", "")


# Prints the share of a core that it gets.
BUSY = (
    "import time\n"
    "begin, used = time.perf_counter(), time.process_time()\n"
    "while time.perf_counter() < begin + .6:\n"
    "    pass\n"
    "print((time.process_time() - used) / (time.perf_counter() - begin))"
)

GROUP = ("cat", "/proc/self/cgroup")


def test_all_that_a_slow_host_computes_gets_a_share_of_a_core() -> None:
    reason = why_no_limit()
    if reason is not None:
        pytest.skip(f"no processor can be limited here: {reason}")
    with Hosts(2) as hosts:
        hosts.limit_processor("host-2", 0.9)
        hosts.limit_processor("host-2", 0.2)
        share = float(run_on(hosts, "host-2", sys.executable, "-c", BUSY).stdout)
        groups = [run_on(hosts, name, *GROUP).stdout for name in hosts.names]
        agent = hosts.variables["PRTE_MCA_plm_ssh_agent"]
        by_agent = run_on(hosts, "host-1", agent, "host-2", *GROUP).stdout
        with pytest.raises(UserError, match=r"a share of 0\.01 of a core: at least 0\.05"):
            hosts.limit_processor("host-2", 0.01)
    assert share < 0.3
    assert by_agent == groups[1] != groups[0]
    assert why_no_limit() is None
