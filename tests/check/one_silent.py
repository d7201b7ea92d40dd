"""The ranks of a check, of which one falls silent.

Run under mpirun, with the number of that rank, what it does not return from, and run.py's flags.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from pcode.check import edges
from pcode.main import main


def wait(*_: Any) -> None:
    signal.pause()


if __name__ == "__main__":
    silent, function, *flags = sys.argv[1:]
    if os.environ["OMPI_COMM_WORLD_RANK"] == silent:
        assert function in vars(edges)
        vars(edges)[function] = wait
    sys.exit(main(flags))
