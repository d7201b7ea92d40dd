"""Run mpirun to its end: signals go in, the exit status comes out, nothing stays behind."""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil

from pcode.launch.closing import close_ports_of
from pcode.launch.relay import Filter, Relay
from pcode.launch.scratch import STEPS_VARIABLE, marked_step, scratch_folder
from pcode.utils.errors import DIVERGED, INTERRUPTED, PREEMPTED, TAKEN, USER_ERROR, say

_ASKING = (signal.SIGTERM, signal.SIGUSR1)
_ENDING = (signal.SIGINT, signal.SIGHUP)
# Kubernetes kills everything 30 s after its SIGTERM.
SAVE_LIMIT_SECONDS = 25.0
_LAST_LIMIT_SECONDS = 3.0
# mpirun itself gives ranks a quarter of a second between SIGTERM and SIGKILL.
END_LIMIT_SECONDS = 10.0
_KILL_LIMIT_SECONDS = 5.0
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_LOOK_SECONDS = 0.05
# What ranks end with when they know what they do.
_ORDERLY = (0, USER_ERROR, DIVERGED, TAKEN, PREEMPTED, INTERRUPTED)


class Ended(NamedTuple):
    """How an mpirun ended: the exit status that this process should end with.

    It has failed where that was neither an orderly end nor one that a signal here asked for.
    """

    status: int
    failed: bool
    has_traceback: bool = False  # of a rank that has failed


def launch(command: Sequence[str], here: bool = True, survives: bool = False) -> Ended:
    """Run mpirun, and say in one line why it failed if nobody else did.

    To be called in the main thread. stdout is inherited, stderr passed on; the ranks read nothing.

    - SIGTERM and SIGUSR1 ask the ranks to save and end: both reach them as SIGUSR1. After SIGTERM
      they have `SAVE_LIMIT_SECONDS`. A second one of them ends the ranks, as Ctrl-C and SIGHUP do:
      mpirun sends SIGTERM and then SIGKILL to every rank. A signal that this process was started
      to ignore (nohup) stays ignored. SIGUSR2 reaches the ranks as it is.
    - A further signal, or an mpirun that takes longer than `END_LIMIT_SECONDS` to end, kills it:
      after a signal, after an error that a rank has reported, and, but for ranks that go on
      without others, after the end of a rank. It
      waits for ever for a host that it cannot reach.
    - When mpirun is gone, so is every process on this machine that came from it, and its files.
      Other hosts' daemons end their ranks when they lose mpirun. This needs Linux, as the next.
    - Should this process be killed, mpirun gets SIGTERM.
    - Where all ranks run here, mpirun's ports answer nobody on other machines (closing.py).

    Args:
        here: all ranks run on this machine.
        survives: the ranks go on when one of them has failed.

    Returns:
        The status is mpirun's, which is that of the first rank to fail, or 0; where mpirun itself
        crashed or hung after a rank had failed, that rank's if mpirun has named it, else 1. Where a
        signal to this process ended the ranks before they could end in good order it is 128 + the
        signal: 130 after Ctrl-C, 143 after SIGTERM.
        141: nobody reads the standard output any more.
    """
    with scratch_folder() as scratch, contextlib.closing(asyncio.new_event_loop()) as loop:
        run = _Supervised(loop)
        failed = partial(loop.call_soon_threadsafe, run.failed)
        # mpirun leaves its ranks where it cannot write. It keeps the reading end open itself: were
        # this process killed, it could still end them.
        reader, writer = os.pipe()
        with no_process_left(_KILL_LIMIT_SECONDS):
            run.process = subprocess.Popen(
                tethered([command[0], *scratch.flags(here), *command[1:]]),
                stdin=subprocess.DEVNULL,
                stderr=writer,
                start_new_session=True,
                env={**os.environ, STEPS_VARIABLE: str(scratch.folder)},
                pass_fds=[scratch.lock, reader],  # the lock, too, may outlive this process
            )
            os.close(writer)
            if here:
                close_ports_of(run.process.pid)
            relay = Relay(reader, failed, survives)
            loop.run_forever()
        relay.finish(_KILL_LIMIT_SECONDS)
        loop.call_soon(loop.stop)
        loop.run_forever()  # signals that have come since count as well
        return _judge(run, relay.filter, scratch.folder)


def tethered(command: Sequence[str]) -> list[str]:
    """Return the command, so that it gets SIGTERM should this process die; on Linux alone."""
    if sys.platform != "linux":
        return [*command]
    tether = str(Path(__file__).with_name("tether.py"))
    return [sys.executable, "-I", "-S", tether, str(os.getpid()), *command]


@contextlib.contextmanager
def no_process_left(limit_seconds: float) -> Iterator[None]:
    """End every process that is started within, whatever happens; on Linux alone.

    A descendant whose parent dies becomes a child of this process: whatever mpirun leaves behind,
    even when it is killed, can then still be found. One in a driver's call ends only when the call
    returns: that is not waited for beyond the limit.
    """
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    spare = set(psutil.Process().children(recursive=True))
    try:
        yield
    finally:
        deadline = time.monotonic() + limit_seconds
        while left := set(psutil.Process().children(recursive=True)) - spare:
            if time.monotonic() > deadline:
                say(f"could not end the processes {', '.join(str(each.pid) for each in left)}")
                break
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                    process.kill()
            psutil.wait_procs(left, _LOOK_SECONDS)  # those that were orphaned meanwhile come again


class _Supervised:
    """An mpirun, and the signals that this process gets while it runs.

    They become calls of the loop, which stops when mpirun has ended: no code runs inside a handler,
    and none is lost that arrives before the loop runs.
    """

    process: subprocess.Popen[bytes]

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.asked_by: int | None = None  # the signal that asked the ranks to save and end
        self.ended_by: int | None = None  # the signal that is the reason for ending them by force
        self.gave_up = False  # it was killed because it did not end after a rank had failed
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        loop.add_signal_handler(signal.SIGCHLD, self._look)
        for number in (*_ASKING, *_ENDING, signal.SIGUSR2):
            if signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self._take, number)

    def failed(self) -> None:
        """Note that a rank has failed, after which mpirun has to end."""
        if self._timer is None:
            self._await_end(END_LIMIT_SECONDS)

    def _look(self) -> None:
        if self.process.poll() is not None:
            self._loop.stop()

    def _take(self, number: int) -> None:
        if number == signal.SIGUSR2:
            self.process.send_signal(number)
        elif self.ended_by is not None:
            self._kill()
        elif number in _ASKING and self.asked_by is None:
            self.asked_by = number
            self.process.send_signal(signal.SIGUSR1)
            if number == signal.SIGTERM:
                self._await(SAVE_LIMIT_SECONDS, self._not_saved)
        else:
            self._end(number, END_LIMIT_SECONDS)
            if number == signal.SIGINT:
                say("ending the ranks; Ctrl-C again kills them at once")

    def _end(self, reason: int, limit_seconds: float) -> None:
        """End the ranks by force."""
        self.ended_by = reason
        # SIGUSR1 would only be passed on.
        self.process.send_signal(signal.SIGTERM if reason in _ASKING else reason)
        self._await_end(limit_seconds)

    def _await(self, limit_seconds: float, expired: Callable[[], None]) -> None:
        """Do this, and nothing else that was to be done later, if mpirun has not ended by then."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(limit_seconds, expired)

    def _await_end(self, limit_seconds: float) -> None:
        def give_up() -> None:
            self.gave_up = self.ended_by is None
            self._kill()
            say(f"mpirun did not end within {limit_seconds:g} s; killing it and its ranks")

        self._await(limit_seconds, give_up)

    def _not_saved(self) -> None:
        self._end(signal.SIGTERM, _LAST_LIMIT_SECONDS)
        say(f"the ranks did not save within {SAVE_LIMIT_SECONDS:g} s; ending them")

    def _kill(self) -> None:
        self.process.kill()
        if self._timer is not None:
            self._timer.cancel()


def _judge(run: _Supervised, seen: Filter, folder: Path) -> Ended:
    """Return what an ended mpirun amounts to; report a failure that nobody has reported yet."""
    returned = run.process.returncode
    death = None if seen.death is None else seen.death.sentence
    if seen.death is not None and (step := marked_step(folder, seen.death.rank)) is not None:
        death = f"{death} in step {step}"
    if run.gave_up or (returned < 0 and seen.fails):
        # mpirun sometimes hangs, or crashes (a lock freed too early), while it ends ranks.
        status = (seen.death and seen.death.status) or 1
    else:  # subprocess has -N for "killed by signal N"
        status = returned if returned >= 0 else 128 - returned
    if run.ended_by is not None:
        return Ended(128 + run.ended_by, failed=False)
    if status in _ORDERLY:
        if status in (USER_ERROR, DIVERGED) and not seen.has_error:
            # A rank that is not the first says nothing of what all find: this one was alone.
            say(f"error: {death or f'a rank ended with status {status}'}")
        return Ended(status, failed=False)
    if run.asked_by is not None:
        return Ended(128 + run.asked_by, failed=False)
    if seen.is_closed:
        return Ended(128 + signal.SIGPIPE, failed=False)
    if status == 128 + signal.SIGALRM:  # pcode.communication.connect sets it
        say("error: the ranks did not all join MPI in time: one died or was silent as it started")
    elif not seen.has_error:
        end = f"was ended by signal {-returned}" if returned < 0 else f"ended with status {status}"
        say(f"error: {death or f'mpirun {end}'}")
    return Ended(status, failed=True, has_traceback=seen.has_traceback)
