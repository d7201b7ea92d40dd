"""A rank that tells a FIFO what happens to it: `rank.py FIFO BEHAVIOUR ARGUMENTS...`."""

import json
import os
import signal
import subprocess
import sys
from typing import BinaryIO

from pcode.launch.environment import RankEnvironment, detect
from pcode.launch.scratch import StepMark

WATCHED = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}


class Rank:
    """One rank; its public methods are the behaviours."""

    def __init__(self, place: RankEnvironment, channel: BinaryIO, arguments: list[str]) -> None:
        self._place, self._channel, self._arguments = place, channel, arguments

    def _tell(self, event: str, **details: object) -> None:
        """One line, in one write below PIPE_BUF: the ranks' lines do not mix."""
        line = {"event": event, "rank": self._place.rank, "pid": os.getpid(), **details}
        self._channel.write(json.dumps(line).encode() + b"\n")

    def report(self) -> int:
        """Tell what arrived, and end well."""
        self._tell(
            "report",
            num_ranks=self._place.num_ranks,
            arguments=self._arguments,
            folder=os.getcwd(),
            variable=os.environ.get("LAUNCH_TEST"),
        )
        return 0

    def fail(self) -> int:
        """The last rank ends with the given status, the others wait."""
        self._tell("ready")
        if self._place.rank == self._place.num_ranks - 1:
            return int(self._arguments[0])
        signal.pause()
        return 0

    def wait(self) -> int:
        """Tell each signal; SIGUSR1 ends well, the others with status 5."""
        signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
        self._tell("ready")
        sys.stderr.write("\rworking")
        number = signal.sigwait(WATCHED)
        self._tell(signal.Signals(number).name)
        return 0 if number == signal.SIGUSR1 else 5

    def save(self) -> int:
        """SIGUSR1: tell it, and end in good order with the given status."""
        signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
        self._tell("ready")
        signal.sigwait({signal.SIGUSR1})
        self._tell("SIGUSR1")
        return int(self._arguments[0])

    def abort(self) -> int:
        """The last rank ends all, by MPI."""
        from mpi4py import MPI  # noqa: PLC0415  # slow to import

        self._tell("ready")
        if self._place.rank == self._place.num_ranks - 1:
            sys.stderr.write(self._arguments[1])
            sys.stderr.flush()
            MPI.COMM_WORLD.Abort(int(self._arguments[0]))
        MPI.COMM_WORLD.recv(source=MPI.ANY_SOURCE)
        return 0

    def complain(self) -> int:
        """Say what is given, tell an error, and stay."""
        self._tell("ready")
        sys.stderr.write("".join([*self._arguments, "run.py: error: it is silent\n"]))
        sys.stderr.flush()
        signal.pause()
        return 0

    def mark(self) -> int:
        """Come to the given step, and wait."""
        StepMark(self._place.rank)(int(self._arguments[0]) + self._place.rank)
        self._tell("ready")
        signal.pause()
        return 0

    def ignore(self) -> int:
        """Nothing but SIGKILL ends it."""
        signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
        self._tell("ready")
        while True:
            self._tell(signal.Signals(signal.sigwait(WATCHED)).name)

    def receive(self) -> int:
        """Wait inside MPI for a message that nobody sends."""
        from mpi4py import MPI  # noqa: PLC0415  # slow to import

        self._tell("ready")
        MPI.COMM_WORLD.recv(source=MPI.ANY_SOURCE)
        return 0

    def leave_child(self) -> int:
        """End well and leave a process behind, in a session of its own."""
        child = subprocess.Popen(
            [sys.executable, "-c", "import signal; signal.pause()", self._channel.name],
            # mpirun waits for whoever holds a rank's output.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._tell("child", child=child.pid)
        return 0


if __name__ == "__main__":
    fifo, behaviour, *rest = sys.argv[1:]
    found = detect()
    assert found is not None
    with open(fifo, "wb", buffering=0) as channel:
        status = getattr(Rank(found, channel, rest), behaviour)()
    sys.exit(status)
