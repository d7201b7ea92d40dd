"""Slow hosts: groups of processes that get a share of a core, by the kernel's control groups."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_MOUNTS = Path("/proc/self/mounts")
# Short against a step of training, which so is slower throughout; a quota is at least 1000.
_PERIOD_MICROSECONDS = 20_000
LEAST_SHARE = 0.05
_ENDING_SECONDS = 10.0


def _root() -> tuple[Path, bool]:
    """Where groups with a quota are made, and whether by version 2.

    Raises:
        OSError: nowhere.
    """
    for line in _MOUNTS.read_text(encoding="utf-8").splitlines():
        _, folder, kind, options, *_ = line.split()
        if kind == "cgroup" and "cpu" in options.split(","):
            return Path(folder), False
        if kind == "cgroup2":
            controllers = Path(folder, "cgroup.controllers").read_text(encoding="utf-8")
            if "cpu" in controllers.split():
                return Path(folder), True
    raise OSError("no control groups for the processor are mounted")


class Group:
    """Processes that together get a share of one core.

    Args:
        name: no other group's.

    Attributes:
        entry: the file that a process writes 0 into to belong to it.

    Raises:
        OSError: it cannot be made here.
    """

    def __init__(self, name: str) -> None:
        root, self._is_second = _root()
        if self._is_second:
            # It may be so already, and then need no right to write there.
            allowed = root / "cgroup.subtree_control"
            if "cpu" not in allowed.read_text(encoding="utf-8").split():
                allowed.write_text("+cpu", encoding="utf-8")
        self._folder = root / name
        self._folder.mkdir()
        self.entry = self._folder / "cgroup.procs"

    def limit(self, share: float) -> None:
        """Give it this share of a core, from now on."""
        quota = round(share * _PERIOD_MICROSECONDS)
        if self._is_second:
            settings = {"cpu.max": f"{quota} {_PERIOD_MICROSECONDS}"}
        else:
            settings = {
                "cpu.cfs_period_us": f"{_PERIOD_MICROSECONDS}",
                "cpu.cfs_quota_us": f"{quota}",
            }
        for name, value in settings.items():
            (self._folder / name).write_text(value, encoding="utf-8")

    def remove(self) -> None:
        """Kill what is in it, and remove it."""
        deadline = time.monotonic() + _ENDING_SECONDS
        while True:
            for process in self.entry.read_text(encoding="utf-8").split():
                with suppress(ProcessLookupError):  # it ended meanwhile
                    os.kill(int(process), signal.SIGKILL)
            try:
                return self._folder.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.002)  # no event tells when a killed process has left it


def why_no_limit() -> str | None:
    """Why no processor of a host can be limited here, or None where it can."""
    try:
        group = Group(f"pcode-trial-{os.getpid()}")
        try:
            group.limit(LEAST_SHARE)
        finally:
            group.remove()
    except OSError as error:
        return str(error)
    return None
