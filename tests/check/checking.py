"""`run.py --check`, as a user starts it, and the lines it prints."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.run.runs import run
from tests.support.hosts import Hosts

FLAGS = ("--check", "--arch", "mlp")


@dataclass(frozen=True)
class Checked:
    """A check that has ended.

    Attributes:
        status: its exit status.
        output: what it printed.
    """

    status: int
    output: str

    def marked(self, mark: str) -> list[str]:
        """What follows the mark, of the lines that begin with it."""
        lines = self.output.splitlines()
        return [line[7:] for line in lines if line.startswith(mark.ljust(7))]

    @property
    def wrong(self) -> list[str]:
        return self.marked("WRONG")


def read(done: subprocess.CompletedProcess[str], folder: Path) -> Checked:
    """The end of a check, which has written nothing: neither runs nor errors."""
    assert done.stderr == "", done.stderr + done.stdout
    assert not (folder / "runs").exists()
    checked = Checked(done.returncode, done.stdout)
    *_, last = checked.output.splitlines()
    if checked.wrong:
        number = len(checked.wrong)
        assert last == ("1 thing is wrong" if number == 1 else f"{number} things are wrong")
        assert checked.status == 1
    else:
        assert last == "nothing is wrong"
        assert checked.status == 0
    return checked


def check(folder: Path, *flags: str) -> Checked:
    """Check a run of this machine's."""
    return read(run(folder, *FLAGS, *flags), folder)


def check_over(hosts: Hosts, folder: Path, *flags: str, slots: int = 1, more: str = "") -> Checked:
    """Check a run from the first of several hosts.

    Args:
        slots: of each host.
        more: lines of the hostfile, besides.
    """
    hostfile = folder / "hostfile"
    hosts.write_hostfile(hostfile, slots)
    with hostfile.open("a") as file:
        file.write(more)
    nodes = ("--hostfile", str(hostfile), "--n_mpi_process", str(len(hosts.names) * slots))
    before = hosts.command("host-1", [], folder)
    return read(run(folder, *FLAGS, *nodes, *flags, before=before, **hosts.variables), folder)


def on(hosts: Hosts, name: str, *argv: str) -> None:
    """Run a command on a host."""
    subprocess.run(hosts.command(name, argv), check=True, capture_output=True, timeout=30)


def hide(hosts: Hosts, name: str, folder: Path) -> None:
    """Let a host see nothing in a folder."""
    on(hosts, name, "mount", "-t", "tmpfs", "none", str(folder))
