"""A run on one machine answers nobody on the network."""

from __future__ import annotations

import ipaddress
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pcode.launch.closing import close_ports
from pcode.utils.errors import PREEMPTED
from tests.run.started import Started

# How long a port may take to answer: on this machine, microseconds.
ANSWER_SECONDS = 0.5
LISTENER = """
import socket, sys
listening = socket.create_server(("", 0))
print(listening.getsockname()[1], flush=True)
sys.stdin.read()
"""


def answers(port: int) -> bool:
    """Whether something accepts a connection to it, at an address of this machine."""
    with socket.socket() as tried:
        tried.settimeout(ANSWER_SECONDS)
        with suppress(OSError):
            tried.connect(("127.0.0.2", port))
            return True
    return False


@pytest.fixture
def listener() -> Iterator[subprocess.Popen[str]]:
    """A program that listens on all interfaces until it is told to end."""
    with subprocess.Popen(
        [sys.executable, "-c", LISTENER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


def closable(listener: subprocess.Popen[str]) -> int:
    """The port of a program once it has been closed, which not all kernels let a process do."""
    assert listener.stdout is not None
    port = int(listener.stdout.readline())
    assert answers(port)
    try:
        close_ports(psutil.Process(listener.pid))
    except OSError as error:
        pytest.skip(f"this machine does not let a process close its children's ports: {error}")
    return port


def test_a_closed_port_answers_nobody(listener: subprocess.Popen[str]) -> None:
    port = closable(listener)
    assert not answers(port)
    assert listener.poll() is None


@pytest.mark.parametrize("backend", ["mpi", "gloo"])
def test_a_run_listens_on_loopback_alone(
    tmp_path: Path, started: list[Started], listener: subprocess.Popen[str], backend: str
) -> None:
    flags = ("--n_mpi_process", "3", "--num_epochs", "100000", "--arch", "logistic_regression")
    started.append(Started(tmp_path, *flags, "--backend", backend))
    run = started[0]
    run.await_text(b"epoch   1")
    listening = {
        (process.name(), each.laddr.ip, each.laddr.port)
        for process in run.processes()
        for each in process.net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    }
    beyond = {
        (name, port)
        for name, address, port in listening
        if not ipaddress.ip_address(address).is_loopback
    }
    assert {name for name, _ in beyond} <= {"prterun"}  # the ranks have none
    open_ports = [port for _, port in beyond if answers(port)]
    run.process.send_signal(signal.SIGTERM)
    assert run.status() == PREEMPTED
    closable(listener)
    assert not open_ports
