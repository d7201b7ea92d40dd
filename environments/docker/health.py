"""Whether what a container runs is well: `health.py [PROCESS]`, by default of process 1.

- A worker: its SSH server lets in who has the run's key.
- A run: the first process and its ranks run, and as many of them as were started here. Before the
  first rank and after the last there are none to count.

Exit status: 0 or, after a line that says what is wrong, 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_LIMIT_SECONDS = 8.0
_RANK, _NUM_LOCAL = "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"
# proc(5): zombie, stopped by a signal, stopped by a debugger, dead.
_NOT_RUNNING = "ZTtX"


def main(arguments: Sequence[str]) -> str | None:
    """Return what is wrong, if anything is."""
    first = Path("/proc", arguments[0] if arguments else "1")
    words = (first / "cmdline").read_bytes().split(b"\0")
    if any(word.endswith(b"/worker.py") for word in words):
        return _server()
    return _run(first)


def _server() -> str | None:
    settings = Path(os.environ.get("TMPDIR", "/tmp"), "choco-sgd/ssh/ssh_config")
    try:
        done = subprocess.run(
            ["ssh", "-F", str(settings), "127.0.0.1", "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"sshd lets nobody in within {_LIMIT_SECONDS:g} s"
    return f"sshd lets nobody in: {done.stderr.strip()}" if done.returncode != 0 else None


def _run(first: Path) -> str | None:
    if _state(first) in _NOT_RUNNING:
        return f"process {first.name} does not run: its state is {_state(first)}"
    found: set[str] = set()
    stopped: set[str] = set()
    num_expected = 0
    for folder in Path("/proc").iterdir():
        try:
            variables = _variables(folder) if folder.name.isdecimal() else {}
            if _RANK not in variables:
                continue
            state = _state(folder)
        except OSError:  # it ended meanwhile, or is another user's
            continue
        found.add(variables[_RANK])
        num_expected = int(variables[_NUM_LOCAL])
        if state in _NOT_RUNNING:
            stopped.add(variables[_RANK])
    if stopped:
        return f"rank {', '.join(sorted(stopped))} does not run"
    if len(found) < num_expected:
        return f"{len(found)} of {num_expected} ranks are left"
    return None


def _variables(folder: Path) -> dict[str, str]:
    text = (folder / "environ").read_bytes().decode(errors="replace")
    pairs = (entry.partition("=") for entry in text.split("\0"))
    return {name: value for name, _, value in pairs}


def _state(folder: Path) -> str:
    # pid (name) state ...; the name may itself hold brackets.
    return (folder / "stat").read_bytes().rpartition(b")")[2].split()[0].decode()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
