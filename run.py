"""Decentralized training: started by hand it launches the nodes, started by MPI it is one."""

import os
import signal
import sys
from types import FrameType


def end(number: int, _: FrameType | None) -> None:
    """End at once, as the signal's own action would: nothing has been written."""
    os._exit(128 + number)


if __name__ == "__main__":
    # Importing torch takes seconds, in which Ctrl-C is not worth a traceback. The first process of
    # a container gets no signal that it has not asked for.
    signals = {signal.SIGINT, *((signal.SIGTERM, signal.SIGUSR1) if os.getpid() == 1 else ())}
    for number in signals:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)
    from pcode.launch.environment import drop_empty

    drop_empty()
    from pcode.main import main

    if signal.getsignal(signal.SIGINT) == end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
