"""A command in a folder as its root, as a container engine starts it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_INSIDE = Path(__file__).with_name("inside.py")


@dataclass(frozen=True)
class Volume:
    """A file or folder of this machine, seen in the container."""

    source: Path
    target: str
    is_read_only: bool = False


@dataclass(frozen=True)
class Container:
    """What is started, and what it sees.

    Attributes:
        root: its root folder; mount points of volumes are made in it.
        argv: the command.
        variables: the whole environment.
        work_dir: in the container.
        user: id of user and group, without any capability or way to get one; None: root, with all.
        is_read_only: its root cannot be written to, but for volumes, /dev and /dev/shm.
        hostname: None: that of this machine.
        network: a process in whose network it lives; None: that of this process.
    """

    root: Path
    argv: Sequence[str]
    variables: Mapping[str, str]
    work_dir: str = "/"
    user: int | None = None
    is_read_only: bool = False
    volumes: Sequence[Volume] = field(default_factory=tuple)
    hostname: str | None = None
    network: int | None = None

    def command(self) -> list[str]:
        """What starts it: a process that ends when the container's first process does."""
        told = {
            "root": str(self.root),
            "argv": list(self.argv),
            "variables": dict(self.variables),
            "work_dir": self.work_dir,
            "user": self.user,
            "is_read_only": self.is_read_only,
            "volumes": [[str(v.source), v.target, v.is_read_only] for v in self.volumes],
            "hostname": self.hostname,
        }
        network = [] if self.network is None else ["nsenter", f"--net=/proc/{self.network}/ns/net"]
        new = ["unshare", "--mount", "--propagation", "private", "--uts", "--ipc", "--pid"]
        python = [sys.executable, "-I", "-S", str(_INSIDE), json.dumps(told)]
        return [*network, *new, "--fork", "--kill-child", *python]
