"""What one host has for a run, or which others it reaches, as a line of JSON: MARK, and an object.

`python -c SOURCE SETTINGS` on that host: it imports the standard library only (Python 3.8 or
newer), and says what is missing instead of failing. SETTINGS is JSON, see `facts` and `unreached`.
"""

from __future__ import annotations  # hosts run it with any interpreter that they have

import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

MARK = "pcode-probe:"
_SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface
_LIMIT_SECONDS = 20.0
_MPI_LIBRARY = (
    "import mpi4py; mpi4py.rc.initialize = False; "
    "from mpi4py import MPI; print(MPI.Get_library_version())"
)
# Enough for a first packet that is lost and comes again.
_TRY_SECONDS = 3.0
_PAUSE_SECONDS = 0.1
_TOGETHER = 64


def package(name: str) -> str | None:
    """Return the version of a distribution; None: it is not installed, or its files are gone."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    # Those that importing it reads first, and its programs.
    for file in found.files or ():
        module = len(file.parts) == 2 and file.name == "__init__.py"
        if (module or file.parts[-2:-1] == ("bin",)) and not os.path.exists(
            str(found.locate_file(file))
        ):
            return None
    return found.version


def sources(script: str) -> dict[str, str | None]:
    """Return where run.py's package would be imported from, and a digest of both."""
    sys.path[0] = os.path.dirname(script)
    spec = importlib.util.find_spec("pcode")
    if spec is None or spec.origin is None:
        return {"path": None, "digest": None}
    folder, digest = Path(spec.origin).parent, hashlib.sha256()
    named = {str(file.relative_to(folder)): file for file in folder.rglob("*.py")}
    if os.path.isfile(script):
        named["/run.py"] = Path(script)
    for name, file in sorted(named.items()):
        content = file.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return {"path": str(folder), "digest": digest.hexdigest()}


def run(*command: str) -> tuple[bool, list[str]]:
    """Run a program; whether it succeeds, and the lines that it prints."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False
        )
    except FileNotFoundError:
        return False, []
    except subprocess.TimeoutExpired:
        return False, [f"no end within {_LIMIT_SECONDS:g} s"]
    lines = (done.stdout or done.stderr).strip().splitlines()
    return done.returncode == 0, lines or [f"status {done.returncode}"]


def addresses() -> dict[str, str]:
    """Return interface -> its IPv4 address, without the loopback's."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, interface in socket.if_nameindex():
            request = struct.pack("256s", interface.encode()[:15])
            try:
                answer = fcntl.ioctl(asked, _SIOCGIFADDR, request)
            except OSError:
                continue  # an interface without an IPv4 address
            found[interface] = socket.inet_ntoa(answer[20:24])
    return {name: address for name, address in found.items() if not address.startswith("127.")}


def memory_free_bytes() -> int | None:
    """Return what programs may still take; None where that is not known."""
    file = Path("/proc/meminfo")
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def cores() -> int:
    """Count those that a process may use, as a run does where joblib is installed."""
    try:
        from joblib.externals.loky import cpu_count  # noqa: PLC0415  # maybe missing
    except ImportError:
        pass
    else:
        return int(cpu_count())
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def can_be_written(place: str) -> bool:
    """Return whether a folder can be written into, or made."""
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    return os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK)


def facts(settings: dict[str, Any]) -> dict[str, Any]:
    """Collect what the host has.

    The settings are `script`, run.py's absolute path; `folder`, in which ranks start; `data_dir`
    and `checkpoint`, from there; `packages`, names of distributions.
    """
    script, folder, hostname = settings["script"], settings["folder"], socket.gethostname()
    try:
        own_address = socket.gethostbyname(hostname)
    except OSError:
        own_address = None  # its name has none on the host itself
    has_mpi, mpi = run(sys.executable, "-c", _MPI_LIBRARY)
    library = {"version": mpi[0].split(", package")[0], "error": None}
    has_gpus, gpus = run("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return {
        "hostname": hostname,
        "python": platform.python_version(),
        "executable": sys.executable,
        "machine": platform.machine(),
        "missing_folder": None if os.path.isdir(folder) else folder,
        "script": os.path.isfile(script),
        "data_dir": os.path.isdir(os.path.join(folder, settings["data_dir"])),
        "checkpoint": can_be_written(os.path.join(folder, settings["checkpoint"])),
        "packages": {name: package(name) for name in settings["packages"]},
        "sources": sources(script),
        "mpi": library if has_mpi else {"version": None, "error": mpi[-1]},
        "gpus": gpus if has_gpus else [],
        "addresses": addresses(),
        "own_address": own_address,
        "memory_free_bytes": memory_free_bytes(),
        "cores": cores(),
        "variables": {
            name: os.environ[name]
            for name in ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME")
            if name in os.environ
        },
    }


def greet(address: str, port: int, own: int, other: int) -> None:
    """Connect and exchange numbers: the same address may be used on several hosts."""
    with socket.create_connection((address, port), _TRY_SECONDS) as connection:
        connection.sendall(f"{own}\n".encode())
        if connection.recv(16) != f"{other}\n".encode():
            raise OSError("another host answers")


def reach(addresses: list[str], port: int, own: int, other: int, deadline: float) -> str | None:
    """Connect to a host at one of its addresses, as soon as it listens; return why not, or None."""
    while True:
        reasons, refused = [], False
        for address in addresses:
            try:
                greet(address, port, own, other)
            except OSError as error:
                refused = refused or isinstance(error, ConnectionRefusedError)
                reasons.append(f"{address}: {error.strerror or error}")
            else:
                return None
        if not refused or time.monotonic() > deadline:  # refused: it may not listen yet
            return "; ".join(reasons) or "no IPv4 address of it is known"
        time.sleep(_PAUSE_SECONDS)


def answer(server: socket.socket, own: int, num_others: int, deadline: float) -> None:
    """Answer until all others have come or the time is up."""
    seen: set[bytes] = set()
    while len(seen) < num_others and (left := deadline - time.monotonic()) > 0:
        server.settimeout(left)
        try:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(_TRY_SECONDS)
                seen.add(connection.recv(16))
                connection.sendall(f"{own}\n".encode())
        except OSError:  # the time is up, or the other is gone and reports why
            continue


def unreached(settings: dict[str, Any]) -> dict[str, Any]:
    """Connect to every other host, as one of the ranks of an mpirun, while the others do.

    The settings are `addresses`, a list for each host; `port`, to which the host's number is added;
    `limit_seconds`. Returns `host`, its own number, and `failed`, the numbers of the hosts that it
    did not reach, with the reasons.
    """
    own = int(os.environ["OMPI_COMM_WORLD_RANK"])
    addresses, port = settings["addresses"], settings["port"]
    deadline = time.monotonic() + settings["limit_seconds"]
    others = [other for other in range(len(addresses)) if other != own]
    server = socket.create_server(("0.0.0.0", port + own), backlog=len(others))
    # The program ends when this does.
    threading.Thread(target=answer, args=(server, own, len(others), deadline)).start()
    with ThreadPoolExecutor(_TOGETHER) as threads:
        asked = {
            other: threads.submit(reach, addresses[other], port + other, own, other, deadline)
            for other in others
        }
        failed = {other: reason for other, each in asked.items() if (reason := each.result())}
    return {"host": own, "failed": failed}


def main() -> None:
    settings = json.loads(sys.argv[1])
    found = unreached(settings) if "addresses" in settings else facts(settings)
    # One write, so that no other output comes in between.
    sys.stdout.write(f"{MARK}{json.dumps(found)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
