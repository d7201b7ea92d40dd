"""The hostfile: `HOST slots=N` lines that say how many processes each machine takes."""

import ipaddress
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from pcode.utils.errors import UserError
from pcode.utils.files import read_text, shortened

# Room for many thousand hosts with long names.
MOST_BYTES = 1 << 22

# Also what `mpirun --host NAME:SLOTS,...` can hold: no colon, comma or blank.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}", re.ASCII)
_NUMBER = re.compile(r"0{0,99}[1-9][0-9]{0,8}", re.ASCII)  # Python's int has a limit of digits
_MOST_PORT = 65535
# An IPv6 address, or what is taken for one, and what follows a colon behind it.
_BRACKETED = re.compile(r"\[(.*:.*)\](?::(.*))?")
_LOOPBACK = re.compile(r"127(\.[0-9]{1,3}){3}", re.ASCII)
_EXPECTED = "expected `HOST slots=N`"
# Open MPI's words for a setting -> ours.
_SETTINGS = {
    **dict.fromkeys(("slots", "cpu", "count"), "slots"),
    **dict.fromkeys(("max_slots", "max-slots", "slots_max", "slots-max"), "max_slots"),
    **dict.fromkeys(("username", "user-name", "user_name"), "username"),
    "port": "port",
}


@dataclass(frozen=True)
class Host:
    """A machine and the number of processes it takes: nodes, or a node's GPUs.

    The login is what ssh needs besides its name, as it stands in Open MPI's hostfiles.
    """

    name: str
    slots: int
    login: str = ""

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

    A line is a host and settings, as Open MPI takes them: `HOST` (one slot), `HOST slots=N`,
    `USER@HOST`, `max_slots=N` (which has to be no less than the slots, and limits nothing more),
    `username=USER` and `port=N` for ssh; and `HOST:N` as in `mpirun --host`. The host may be an
    IPv6 address, in brackets where `:N` follows. The slots of a host on several lines add up. `#`
    or `//` starts a comment; blank lines are skipped. What is malformed is a UserError with the
    line's number, and so is a file without hosts.
    """
    hosts: dict[str, Host] = {}
    # Not splitlines(), which also breaks at characters that no editor shows as a new line.
    for number, line in enumerate(text.split("\n"), start=1):
        words = " ".join(re.split("#|//", line, maxsplit=1)[0].split())
        if not words:
            continue
        try:
            host = _host(*re.sub(" ?= ?", "=", words).split())
            before = hosts.get(host.name.lower(), Host(host.name, 0))
            if before.login and host.login and before.login != host.login:
                raise ValueError(f"{host.name} has another user or port than in a line before")
        except ValueError as error:
            raise UserError(f"--hostfile {path}, line {number}: {error}") from None
        hosts[host.name.lower()] = Host(
            before.name, before.slots + host.slots, before.login or host.login
        )
    if not hosts:
        raise UserError(f"--hostfile {path}: no hosts in it; {_EXPECTED} lines")
    return tuple(hosts.values())


def _host(address: str, *words: str) -> Host:
    """Return the host of a line's words; a ValueError says what is wrong with them."""
    user, at, place = address.rpartition("@")
    if bracketed := _BRACKETED.fullmatch(place):
        name, *counts = (part for part in bracketed.groups() if part is not None)
    else:
        name, *counts = (place,) if place.count(":") > 1 else place.split(":")
    settings = [("username", user)] * len(at) + [("slots", count) for count in counts]
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in _SETTINGS:
            raise ValueError(f"{shortened(word)}: {_EXPECTED}")
        settings.append((_SETTINGS[key], value))
    found: dict[str, str] = {}
    for key, value in settings:
        if key in found:
            raise ValueError(f"{shortened(' '.join((address, *words)))}: {key} is given twice")
        kind = "a name" if key == "username" else "a whole number of at least 1"
        if not (_NAME if key == "username" else _NUMBER).fullmatch(value):
            raise ValueError(f"{key}={shortened(value)}: expected {kind}")
        found[key] = value
    if int(found.get("port", 1)) > _MOST_PORT:
        raise ValueError(f"port={found['port']}: expected one of at most {_MOST_PORT}")
    slots, most = int(found.pop("slots", 1)), found.pop("max_slots", None)
    if most is not None and int(most) < slots:
        raise ValueError(f"max_slots={most} is less than slots={slots}")
    login = " ".join(f"{key}={value}" for key, value in sorted(found.items()))
    return Host(_named(name), slots, login)


def _named(name: str) -> str:
    """Return a host's name as it is passed on; a ValueError: it is none."""
    with suppress(ValueError):
        address = ipaddress.IPv6Address(name)
        if address.scope_id is None:  # mpirun takes none, and would ask ssh for ::1
            return "localhost" if address.is_loopback else str(address)
    if not _NAME.fullmatch(name):
        raise ValueError(f"{shortened(name)} is not a host name; {_EXPECTED}")
    return name


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
