"""A copy of the repository into which faults are put, and pytest in it with a time limit."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fault_list import Fault
from started import MARK, kill_all

# They fail wherever a fault has been put in, whatever it breaks.
TESTS_OF_THE_LIST = "tests/test_faults.py"
TIME_LIMIT = "time limit"
_LOOK_SECONDS = 0.5
_PASSED, _NO_TESTS = 0, 5  # of pytest's exit statuses
# Of a test that has just failed. pytest itself ends much later: -x lets every worker of xdist
# finish what it was given, half of all tests.
_FAILS = re.compile(r"^\[gw\d+\] \[ *\d+%\] (?:FAILED|ERROR) (.+?) *$", re.MULTILINE)
# In pytest's last lines: the test, whose parameters may hold anything, and then a reason.
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+?(?:\[.*?\])?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Tested:
    """What became of a pytest.

    Attributes:
        seconds: how long it took.
        failure: the first test that failed, TIME_LIMIT, or pytest's last line where it names none;
            None: all passed.
    """

    seconds: float
    failure: str | None


def failure_in(output: str, status: int | None) -> str | None:
    """The first failure that a pytest tells of, by what it has printed so far.

    Args:
        status: its exit status; None: it still runs.
    """
    if match := _FAILS.search(output):
        return match[1]
    if status in (None, _PASSED, _NO_TESTS):
        return None
    if match := _FAILED.search(output):
        return match[1]
    lines = output.strip().splitlines() or ["nothing was printed"]
    return f"status {status}: {lines[-1]}"


class Copy:
    """The repository's tracked files, as they are now, in a folder of their own.

    One for all faults, as the compiled kernels lie beside their sources.

    Args:
        folder: where it is.
        printed: where the output of each pytest goes; beside it lie the tests' temporary files.
    """

    def __init__(self, folder: Path, printed: Path) -> None:
        self.folder, self._printed = folder, printed
        self._temporary = printed.with_name("temporary")
        self._temporary.mkdir()

    @contextmanager
    def holding(self, fault: Fault) -> Iterator[None]:
        """Within the block the fault is in the copy."""
        file = self.folder / fault.file
        changed, before, times = fault.source(self.folder), file.read_bytes(), file.stat()
        file.write_text(changed, encoding="utf-8")
        try:
            yield
        finally:
            file.write_bytes(before)
            # Compiled code is kept by the time of its source.
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    def test(self, selection: Sequence[str], limit_seconds: float) -> Tested:
        """Run these tests, until the first failure; of what they start nothing is left.

        Args:
            selection: pytest's arguments that say which.
        """
        command = [
            *(sys.executable, "-m", "pytest", *selection, "-x", "-n", "2", "--dist", "worksteal"),
            # A line for each test, whatever -q pytest's options hold.
            *("-vv", "-rfE", f"--ignore={TESTS_OF_THE_LIST}"),
        ]
        mark = str(self.folder)
        begin = time.monotonic()
        with self._printed.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={
                    **os.environ,
                    "PYTHONPATH": str(self.folder),
                    "TMPDIR": str(self._temporary),  # what is killed leaves its files there
                    MARK: mark,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        failure = None
        try:
            while failure is None and process.returncode is None:
                if time.monotonic() - begin > limit_seconds:
                    failure = TIME_LIMIT
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK_SECONDS)
                text = self._printed.read_text(encoding="utf-8", errors="replace")
                failure = failure_in(text, process.returncode)
        finally:
            with contextlib.suppress(ProcessLookupError):  # the group has ended
                os.killpg(process.pid, signal.SIGKILL)
            kill_all(mark)  # those in sessions of their own
            process.wait()
        return Tested(time.monotonic() - begin, failure)


@contextmanager
def copy_of(root: Path) -> Iterator[Copy]:
    """A copy of the repository in that folder, which is removed at the end."""
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z"], check=True, capture_output=True
    ).stdout
    place = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        folder = place / "repository"
        for name in map(os.fsdecode, filter(None, listed.split(b"\0"))):
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(root / name):  # else it is tracked and was removed
                shutil.copy2(root / name, file, follow_symlinks=False)
        yield Copy(folder, place / "pytest.txt")
    finally:
        shutil.rmtree(place)
