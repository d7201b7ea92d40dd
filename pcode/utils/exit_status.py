"""Exit statuses of run.py and of the tools."""

USER_ERROR = 2  # the flags cannot be followed, and nothing was written
DIVERGED = 3  # the loss or a vector is no longer finite
PREEMPTED = 75  # SIGTERM or SIGUSR1: saved; --resume goes on (sysexits.h: EX_TEMPFAIL)
INTERRUPTED = 130  # Ctrl-C
