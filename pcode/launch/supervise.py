"""Running mpirun to its end: signals go in, the exit status comes out, nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pcode.launch.processes import adopt_orphans, descendants, end_descendants

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)
# mpirun itself gives ranks a quarter of a second between SIGTERM and SIGKILL.
END_LIMIT_SECONDS = 10.0
_KILL_LIMIT_SECONDS = 5.0


def launch(command: Sequence[str]) -> int:
    """Run mpirun, and return the exit status that this process should end with.

    To be called in the main thread. stdout and stderr are inherited; the ranks read nothing.

    - Ctrl-C, SIGTERM and SIGHUP go to mpirun, which sends SIGTERM and then SIGKILL to every rank;
      SIGUSR1 and SIGUSR2 reach the ranks as they are. A signal that this process was started to
      ignore (nohup) stays ignored.
    - A second Ctrl-C, or an mpirun that takes longer than `END_LIMIT_SECONDS` to end, kills it.
    - When mpirun is gone, so is every process on this machine that came from it. Other hosts'
      daemons end their ranks when they lose mpirun.
    - Should this process be killed, mpirun gets SIGTERM.

    The last two need Linux; elsewhere it depends on mpirun.

    Returns:
        128 + the signal after Ctrl-C (130), SIGTERM (143) or SIGHUP (129); otherwise mpirun's
        status, which is that of the first rank to fail, or 0.
    """
    linux = sys.platform == "linux"
    if linux:
        adopt_orphans()
        command = [
            *(sys.executable, "-I", "-S", str(Path(__file__).with_name("tether.py"))),
            *(str(os.getpid()), *command),
        ]
    spare = descendants() if linux else frozenset()
    with _signal_numbers() as signals:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        ended_by = _supervise(process, signals)
        if linux:
            left = end_descendants(spare, _KILL_LIMIT_SECONDS)
            if left:
                _say(f"could not end the processes {', '.join(map(str, sorted(left)))}")
    if ended_by is not None:
        return 128 + ended_by
    # subprocess has -N for "killed by signal N".
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


@contextlib.contextmanager
def _signal_numbers() -> Iterator[int]:
    """A file descriptor from which the numbers of arriving signals can be read, one a byte.

    Signals become data for one loop: no code runs inside a handler, and none can be lost between
    a look at the process and the wait for the next event.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    previous = {signal.SIGCHLD: signal.getsignal(signal.SIGCHLD)}
    for number in (*_ENDING, *_PASSED_ON):
        handler = signal.getsignal(number)
        if handler != signal.SIG_IGN:
            previous[number] = handler
    previous_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        for number in previous:
            signal.signal(number, lambda _number, _frame: None)
        yield reader
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_writer)
        os.close(reader)
        os.close(writer)


def _supervise(process: subprocess.Popen[bytes], signals: int) -> int | None:
    """Hand signals on until the process has ended; the signal that ended it, if one did."""
    ended_by: int | None = None
    deadline: float | None = None
    while process.poll() is None:
        limit = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([signals], [], [], limit)[0]:
            _say(f"mpirun did not end within {END_LIMIT_SECONDS:g} s; killing it and its ranks")
            process.kill()
            deadline = None
            continue
        for number in os.read(signals, 4096):
            if number in _PASSED_ON:
                process.send_signal(number)
            elif number in _ENDING and ended_by is None:
                process.send_signal(number)
                ended_by, deadline = number, time.monotonic() + END_LIMIT_SECONDS
                if number == signal.SIGINT:
                    _say("ending the ranks; Ctrl-C again kills them at once")
            elif number in _ENDING:
                process.kill()
                deadline = None
    return ended_by


def _say(line: str) -> None:
    print(f"run.py: {line}", file=sys.stderr, flush=True)
