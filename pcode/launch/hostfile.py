"""The hostfile: `HOST slots=N` lines that say how many processes each machine takes."""

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from pcode.utils.errors import UserError
from pcode.utils.files import read_text, shortened

# Room for many thousand hosts with long names.
MOST_BYTES = 1 << 22

# Also what `mpirun --host NAME:SLOTS,...` can hold: no colon, comma or blank.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}", re.ASCII)
_SLOTS = re.compile(r"[0-9]{1,9}", re.ASCII)
_LOOPBACK = re.compile(r"127(\.[0-9]{1,3}){3}", re.ASCII)


@dataclass(frozen=True)
class Host:
    """A machine and the number of processes it takes: nodes, or a node's GPUs."""

    name: str
    slots: int

    def is_this_machine(self) -> bool:
        """Return whether the name is this machine's, or a numeric address of it; no look-up."""
        return self.name.lower() in own_names() or _LOOPBACK.fullmatch(self.name) is not None


def own_names() -> frozenset[str]:
    """Return this machine's names and addresses."""
    own = socket.gethostname().lower()
    addresses = (each.address for found in psutil.net_if_addrs().values() for each in found)
    return frozenset(("localhost", own, short_name(own), *addresses))


def short_name(host: str) -> str:
    """Return a host's name without its domain."""
    return host.partition(".")[0].lower()


def parse_hostfile(text: str, path: str) -> tuple[Host, ...]:
    """Return the hosts of the text of the file `path`, in its order.

    A line is `HOST` (one slot) or `HOST slots=N`; `#` starts a comment; blank lines are skipped. It
    is a UserError where a line is malformed, a host is given twice, or there is none at all.
    """
    hosts: dict[str, Host] = {}
    # Not splitlines(), which also breaks at characters that no editor shows as a new line.
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where = f"--hostfile {path}, line {number}"
        name, *settings = words
        if not _NAME.fullmatch(name):
            raise UserError(
                f"{where}: {shortened(name)} is not a host name; expected `HOST slots=N`"
            )
        has_slots = bool(settings) and settings[0].startswith("slots=")
        if unexpected := settings[has_slots:]:
            raise UserError(f"{where}: {shortened(unexpected[0])}: expected `HOST slots=N`")
        slots = settings[0].removeprefix("slots=") if has_slots else "1"
        if not _SLOTS.fullmatch(slots) or int(slots) == 0:
            wrong = f"slots={shortened(slots)}"
            raise UserError(f"{where}: {wrong}: expected a whole number of at least 1")
        if name.lower() in hosts:
            raise UserError(f"{where}: {name} is given twice; add its slots up in one line")
        hosts[name.lower()] = Host(name, int(slots))
    if not hosts:
        raise UserError(f"--hostfile {path}: no hosts in it; expected `HOST slots=N` lines")
    return tuple(hosts.values())


def read_hostfile(path: str) -> tuple[Host, ...]:
    """Read the hosts of a file, as `parse_hostfile`; raise UserError where it cannot be read."""
    try:
        text = read_text(path, MOST_BYTES)
    except ValueError as error:
        raise UserError(f"--hostfile {path}: {error}") from None
    return parse_hostfile(text, path)


def all_here(hosts: Sequence[Host]) -> bool:
    """Return whether none of the hosts is another machine."""
    return all(host.is_this_machine() for host in hosts)


def check_slots(hosts: Sequence[Host], num_nodes: int, num_local_ranks: int = 1) -> None:
    """Raise a UserError where hosts have fewer slots than the nodes have processes."""
    num_slots = sum(host.slots for host in hosts)
    if num_slots < num_nodes * num_local_ranks:
        each = f" --n_sub_process {num_local_ranks}" if num_local_ranks > 1 else ""
        needed = f" for {num_nodes * num_local_ranks} processes" if num_local_ranks > 1 else ""
        raise UserError(
            f"--n_mpi_process {num_nodes}{each}: the hostfile has {num_slots} slots "
            f"on {len(hosts)} hosts{needed}; raise slots= or lower --n_mpi_process"
        )
