"""Hosts with names, addresses and links, for as long as a `with` block lasts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from pcode.utils.errors import UserError
from tests.support.hosts.disturbance import Disturbance
from tests.support.hosts.namespaces import entering, run, why_not
from tests.support.hosts.network import Network
from tests.support.hosts.processor import LEAST_SHARE, Group

_HERE = Path(__file__).parent
# A private network's; nothing of the machine's own network is seen from the hosts.
_PREFIX, _PREFIX_BITS = "10.77.0.", 24
MOST_HOSTS = 250
_ENDING_SECONDS = 10.0


class Hosts:
    """Some hosts on one machine, each with a name, an address and a link to a switch.

    A host is a set of Linux namespaces: it has its own network, host name, `/etc/hosts` (in which
    all have their names), `/sys` and `/dev/shm`. Files, processor, memory and clock are the
    machine's: as in a cluster with a shared file system, but for the hosts' computing at each
    other's cost. Ranks on different hosts reach each other over TCP only.

    mpirun is started on one of them (`command`) with `variables` in its environment; it reaches
    the others through a stand-in for ssh. At the end of the block, and of this process, every
    process in one of the hosts is killed.

    Args:
        num_hosts: at least 1; they are called host-1, host-2, ...
        rate_mbit: of each link, in Mbit/s, in each direction; None: as fast as the machine.
        disturbance: between any two hosts. A process of its own then forwards between the links,
            at the cost of a part of a core.

    Attributes:
        names: of the hosts.
        network: to slow and cut links.
        relay: the process that forwards between the links, where that is not the kernel.

    Raises:
        UserError: they cannot be made here, or not that many.
    """

    def __init__(
        self,
        num_hosts: int,
        rate_mbit: float | None = None,
        disturbance: Disturbance | None = None,
    ) -> None:
        if not 1 <= num_hosts <= MOST_HOSTS:
            raise UserError(f"{num_hosts} hosts: from 1 to {MOST_HOSTS} are possible")
        reason = why_not()
        if reason is not None:
            raise UserError(f"no hosts can be made here: {reason}")
        self.names = [f"host-{number}" for number in range(1, num_hosts + 1)]
        self.relay: subprocess.Popen[bytes] | None = None
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        self._groups: dict[str, Group] = {}
        self._left = ExitStack()
        self._folder = Path(tempfile.mkdtemp(prefix="pcode-hosts-"))
        self._left.callback(shutil.rmtree, self._folder)
        with ExitStack() as undo:
            undo.callback(self.close)
            self._make(rate_mbit, disturbance)
            undo.pop_all()

    def _make(self, rate_mbit: float | None, disturbance: Disturbance | None) -> None:
        etc_hosts = self._folder / "hosts"
        lines = [f"{self.address(name)} {name}" for name in self.names]
        etc_hosts.write_text(
            "\n".join(["127.0.0.1 localhost", "::1 localhost", *lines, ""]), encoding="utf-8"
        )
        switch = self._hold("switch", etc_hosts)
        for name in self.names:
            self._holders[name] = self._hold(name, etc_hosts)
        self.network = Network(switch.pid, is_bridged=disturbance is None)
        for name, holder in self._holders.items():
            self.network.plug_in(name, holder.pid, self.address(name), _PREFIX_BITS)
            self.network.set_rate(name, rate_mbit)
        if disturbance is not None:
            self.relay = self._start_relay(switch.pid, disturbance)
        self._tell_agents()
        agent = self._folder / "agent"
        words = [
            sys.executable,
            "-I",
            "-S",
            str(_HERE / "agent.py"),
            f"{self._folder}/holders.json",
        ]
        agent.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n', encoding="utf-8")
        agent.chmod(0o755)

    def _hold(self, name: str, etc_hosts: Path) -> subprocess.Popen[bytes]:
        """Start the process that holds a host, and wait until the host can be entered."""
        namespaces = ["unshare", "--net", "--uts", "--mount"]
        return self._start(namespaces, "holder.py", name, str(etc_hosts))

    def _start_relay(self, switch: int, disturbance: Disturbance) -> subprocess.Popen[bytes]:
        values = disturbance.latency_ms, disturbance.jitter_ms, disturbance.loss, disturbance.seed
        words = [*map(str, values), *self.network.ports]
        return self._start(entering(switch, "-n"), "relay.py", *words)

    def _start(self, before: list[str], script: str, *words: str) -> subprocess.Popen[bytes]:
        """Start a script that ends with its standard input, and wait until it is ready."""
        process = subprocess.Popen(
            [*before, sys.executable, "-I", "-S", str(_HERE / script), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C is for what runs on the hosts
        )
        self._left.callback(_end, process, script)
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"no hosts can be made: {script} ended")
        return process

    def _tell_agents(self) -> None:
        """Write what an agent needs to know of each host."""
        told = {name: (self.process(name), self._entry(name)) for name in self.names}
        (self._folder / "holders.json").write_text(json.dumps(told), encoding="utf-8")

    def _entry(self, name: str) -> str | None:
        """The file by which a process comes under a host's limit, as seen from any host."""
        group = self._groups.get(name)
        return f"/proc/{os.getpid()}/root{group.entry}" if group is not None else None

    def __enter__(self) -> Hosts:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes in the hosts, and the hosts."""
        self._left.close()

    def address(self, name: str) -> str:
        """A host's, on the network between the hosts."""
        return f"{_PREFIX}{self.names.index(name) + 1}"

    def command(self, name: str, argv: Sequence[str], folder: Path | None = None) -> list[str]:
        """The command that runs `argv` on a host, with the environment that it is given.

        Its process becomes that of `argv`.

        Args:
            folder: to run it in, if not that of this process.

        Raises:
            RuntimeError: nothing is forwarded between the hosts any more.
        """
        if self.relay is not None and self.relay.poll() is not None:
            raise RuntimeError(_ended("relay.py", self.relay))
        inside = entering(self.process(name), "-n", "-u", "-m")
        command = [*inside, "env", f"--chdir={folder or Path.cwd()}", *argv]
        entry = self._entry(name)
        if entry is None:
            return command
        return ["sh", "-c", 'echo 0 > "$0" && exec "$@"', entry, *command]

    def limit_processor(self, name: str, share: float) -> None:
        """Let a host compute more slowly.

        All processes that are started on it from now on together get this share of the time of one
        core (.5: half of it), spread evenly over time; so do, at once, those that were started
        since an earlier call. A group is left behind where this process is killed.

        Raises:
            UserError: that share, or none here, is possible.
        """
        if not LEAST_SHARE <= share < float("inf"):
            raise UserError(f"a share of {share} of a core: at least {LEAST_SHARE} is needed")
        try:
            if name not in self._groups:
                self._groups[name] = Group(f"{self._folder.name}-{name}")
                self._left.callback(self._groups[name].remove)
            self._groups[name].limit(share)
        except OSError as error:
            raise UserError(f"the processor of {name} cannot be limited here: {error}") from error
        self._tell_agents()

    def process(self, name: str) -> int:
        """Id of the process in whose namespaces the host is."""
        return self._holders[name].pid

    @property
    def variables(self) -> dict[str, str]:
        """What mpirun on one of the hosts needs in its environment to reach the others."""
        return {
            "PRTE_MCA_plm_ssh_agent": str(self._folder / "agent"),
            # Where mpirun's daemons leave folders of theirs.
            "PRTE_MCA_prte_remote_tmpdir_base": str(self._folder),
        }

    def write_hostfile(self, path: Path, slots: int) -> None:
        """All hosts, in order, with as many slots on each."""
        lines = [f"{name} slots={slots}\n" for name in self.names]
        path.write_text("".join(lines), encoding="utf-8")

    def bytes_sent(self, name: str) -> int:
        """What has left a host over its link since it was made, as the kernel counts."""
        file = "/sys/class/net/eth0/statistics/tx_bytes"
        return int(run(self.command(name, ["cat", file])))


def _end(process: subprocess.Popen[bytes], script: str) -> None:
    """The end of its standard input ends a holder, once all else in its host is gone, or a relay.

    Raises:
        RuntimeError: it has failed.
    """
    try:
        process.communicate(timeout=_ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    if process.returncode != 0:
        raise RuntimeError(_ended(script, process))


def _ended(script: str, process: subprocess.Popen[bytes]) -> str:
    return f"{script}, which the hosts need, has ended with status {process.returncode}"
