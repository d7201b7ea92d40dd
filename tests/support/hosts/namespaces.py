"""Whether this process may make hosts, and running commands in namespaces."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence

_LIMIT_SECONDS = 30.0
_NEEDED = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2", "tc": "iproute2"}


def why_not() -> str | None:
    """Why no hosts can be made here, or None where they can."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    for program, package in _NEEDED.items():
        if shutil.which(program) is None:
            return f"no {program} found (Debian's package {package})"
    trial = ["unshare", "--net", "--uts", "--mount", "mount", "-t", "sysfs", "sysfs", "/sys"]
    tried = subprocess.run(
        trial, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False
    )
    if tried.returncode != 0:
        return f"namespaces are not allowed: {tried.stderr.strip()}"
    return None


def entering(process: int, *flags: str) -> list[str]:
    """The beginning of a command that runs in namespaces of another process."""
    return ["nsenter", "-t", str(process), *flags, "--"]


def run(command: Sequence[str]) -> str:
    """What a command prints.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
