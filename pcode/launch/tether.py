"""Become another program that is asked to end when the process that started it dies.

Run as a script: `python -I -S tether.py PARENT_PID PROGRAM ARGUMENTS...`, Linux only. The request
must be made by the child itself between fork and exec, which subprocess's preexec_fn would do
unsafely in a process with threads. It imports nothing of the package, for speed.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2); outlives execv


def main() -> None:
    # Python's handler would turn a Ctrl-C in these few milliseconds into a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent, program = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the request
        sys.exit(128 + signal.SIGTERM)
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
