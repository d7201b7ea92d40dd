"""Running programs on hosts, and what they say to each other: what the tests of hosts share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.hosts import Hosts

TALK = [sys.executable, "-I", "-S", str(Path(__file__).with_name("talk.py"))]


def run_on(hosts: Hosts, name: str, *argv: str) -> subprocess.CompletedProcess[str]:
    command = hosts.command(name, argv)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def taking(hosts: Hosts, name: str) -> Iterator[subprocess.Popen[str]]:
    """A host that takes what one other sends it."""
    command = hosts.command(name, [*TALK, "take"])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
            yield process
        finally:
            process.kill()


def mbit(hosts: Hosts, sender: str, receiver: str, num_bytes: int) -> float:
    """The rate, in Mbit/s, at which bytes come to the other host; what disturbs makes it lower.

    They come whole and in order.
    """
    with taking(hosts, receiver) as process:
        sent = run_on(hosts, sender, *TALK, "send", receiver, str(num_bytes))
        assert sent.returncode == 0, sent.stderr
        seconds, checksum = sent.stdout.split()
        assert process.communicate(timeout=60)[0] == f"{num_bytes} {checksum}\n"
    return 8e-6 * num_bytes / float(seconds)


def reaches(hosts: Hosts, sender: str, receiver: str) -> bool:
    """Whether a connection comes about within two seconds."""
    with taking(hosts, receiver):
        sent = run_on(hosts, sender, *TALK, "send", receiver, "1")
    return sent.returncode == 0


def alive(process: int) -> bool:
    """Whether it runs; one that nobody has collected yet does not."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.support.hosts", *arguments]
    root = Path(__file__).parents[2]
    return subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
