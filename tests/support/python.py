"""A Python that starts in milliseconds what has to import torch and pcode: see rank_server."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent
ROOT = _HERE.parents[1]
# -I -S: nothing of the environment, no packages, for speed.
_PYTHON = """#!{python} -IS
import sys
sys.path.insert(0, {here!r})
import trampoline
trampoline.main({path!r})
"""
# Where pytest-xdist's workers find the one that their controller has started.
SHARED = "CHOCO_SGD_TESTS_PYTHON"
_LONGEST_PATH = 100  # in a script's first line, of which some kernels read 127 bytes
_SERVERS: list[subprocess.Popen[bytes]] = []  # their standard input stays open as long as these


@cache
def quick_python() -> str:
    """What to start Python programs with, in place of `sys.executable`.

    It lies in a folder that looks like that of the environment's programs, mpirun among them. The
    first call starts the server, whose end is that of this process, unless the process that started
    this one has (`SHARED` in the environment). Elsewhere than on Linux, and where a script cannot
    name the interpreter, it is `sys.executable`.
    """
    if sys.platform != "linux" or " " in sys.executable or len(sys.executable) > _LONGEST_PATH:
        return sys.executable
    if SHARED in os.environ:
        return os.environ[SHARED]
    folder = Path(tempfile.mkdtemp(prefix="choco-sgd-tests-"))
    python, path = folder / "python", folder / "socket"
    python.write_text(_PYTHON.format(python=sys.executable, here=str(folder), path=str(path)))
    # A copy, as hosts that tests make may not see the repository.
    shutil.copy2(_HERE / "trampoline.py", folder)
    python.chmod(0o755)
    (folder / "python3").symlink_to(python)
    mpirun = Path(sys.executable).with_name("mpirun")
    if mpirun.exists():
        (folder / "mpirun").write_text(f'#!/bin/sh\nexec {shlex.quote(str(mpirun))} "$@"\n')
        (folder / "mpirun").chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener, open(f"{path}.errors", "w") as errors:
        listener.bind(str(path))
        listener.listen(64)
        descriptor = str(listener.fileno())
        _SERVERS.append(
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.support.rank_server"),
                    *(descriptor, str(folder), str(python)),
                ],
                cwd=ROOT,
                # As programs in tests have it, and as run.py has it before torch takes memory.
                env={**os.environ, "OMP_NUM_THREADS": "1", "THP_MEM_ALLOC_ENABLE": "1"},
                stderr=errors,
                stdin=subprocess.PIPE,  # closed when this process ends, however it does
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C is for the tests
            )
        )
    return str(python)
