"""Worlds: programs of several ranks that go through cases (see cases), each started once."""

from __future__ import annotations

import fcntl
import json
import tempfile
from pathlib import Path

import pytest

from tests.support.programs import run_mpi

# Ranks import torch on a machine that is busy, and a check may wait for its time limit. Less than
# pytest gives a test.
TIMEOUT_SECONDS = 270.0


class World:
    """What came of the checks of a world.

    Args:
        folder: where it has left what it found.
        num_ranks: how many have.

    Attributes:
        folder: as given.
        end: how it ended: the standard error of one that failed, or "".
    """

    def __init__(self, folder: Path, num_ranks: int) -> None:
        self.folder = folder
        self.end = (folder / "end").read_text(encoding="utf-8")
        self._ended: list[dict[tuple[str, str], str]] = []
        self._last: list[tuple[str, ...]] = []  # what each rank was at
        for rank in range(num_ranks):
            file = folder / f"{rank}.notes"
            lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
            entries = [json.loads(line) for line in lines]
            self._ended.append({(e[0], e[1]): e[2] for e in entries if len(e) == 3})
            self._last.append(tuple(entries[-1][:2]) if entries else ("before the first case",))

    def failures(self, case: str, check: str) -> str:
        """Of a check on all ranks, each with its rank; "" where it was run and holds on all."""
        texts = []
        for rank, (ended, last) in enumerate(zip(self._ended, self._last, strict=True)):
            if (case, check) in ended:
                text = ended[case, check]
            elif last == (case, check):
                text = f"the world ended meanwhile:\n{self.end}"
            else:
                text = f"not run, the world ended in: {', '.join(last)}\n{self.end}"
            if text:
                texts.append(f"rank {rank}: {text}")
        return "\n".join(texts)


def started(
    module: str, num_ranks: int, factory: pytest.TempPathFactory, config: pytest.Config
) -> World:
    """The world of a module, which is started with a folder of its own as its argument.

    Whoever asks first starts it, and the others wait and read what it has left: several workers of
    pytest-xdist share the tests of a file.
    """
    own = factory.getbasetemp()
    session = own.parent if hasattr(config, "workerinput") else own
    folder = session / f"{module}.{num_ranks}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "done"
        if not done.exists():
            # Afresh: whoever began before may have been killed.
            fresh = Path(tempfile.mkdtemp(prefix="try-", dir=folder))
            (fresh / "end").write_text(_run(module, num_ranks, fresh), encoding="utf-8")
            fresh.rename(done)
    return World(done, num_ranks)


def _run(module: str, num_ranks: int, folder: Path) -> str:
    try:
        done = run_mpi(num_ranks, ["-m", module, str(folder)], TIMEOUT_SECONDS)
    except AssertionError as error:  # kept, so that each check fails with it at once
        return str(error)
    return "" if done.returncode == 0 else f"exit status {done.returncode}\n{done.stderr}"
