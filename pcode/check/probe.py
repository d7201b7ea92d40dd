"""What one host has for a run, as a line of JSON. It runs on that host, on its own.

`python -c SOURCE SETTINGS`: it imports the standard library only (Python 3.8 or newer), and says
what is missing instead of failing. SETTINGS is JSON: `script`, run.py's absolute path; `folder`, in
which ranks start; `data_dir` and `checkpoint`, from there; `packages`, names of distributions.
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
        from joblib import cpu_count  # noqa: PLC0415  # maybe missing
    except ImportError:
        pass
    else:
        return int(cpu_count())
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def can_be_written(place: str) -> bool:
    """Whether a folder can be written into, or made."""
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    return os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK)


def facts(settings: dict[str, Any]) -> dict[str, Any]:
    """Collect all of it."""
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


def main() -> None:
    # One write, so that no other output comes in between.
    sys.stdout.write(f"{MARK}{json.dumps(facts(json.loads(sys.argv[1])))}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
