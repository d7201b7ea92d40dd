"""What the rank server forks is what a real start would have been, and ends as that would."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.programs import ROOT, quick_python, run_mpi
from tests.support.python import SHARED

pytestmark = pytest.mark.skipif(
    quick_python() == sys.executable, reason="forks are made on Linux, where the path is short"
)
LIMIT_SECONDS = 60.0
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
# Of a pytest that starts a server of its own.
OF_THEIR_OWN = {name: value for name, value in ENVIRONMENT.items() if name != SHARED}
PROBE = """
import json, os, signal, sys

def listing():  # what it has inherited: another one is its own
    for number in range(100):
        try:
            found = os.fstat(number)
        except OSError:
            continue
        if os.get_inheritable(number):
            yield number, found.st_ino

mask = os.umask(0)
print(json.dumps({
    "arguments": [sys.argv, sys.orig_argv[1:]],
    "path": sys.path,
    "main": [__name__, globals().get("__file__"), __import__("__main__").__dict__ is globals()],
    "environment": dict(os.environ),
    "folder": os.getcwd(),
    "mask": mask,
    "cores": sorted(os.sched_getaffinity(0)),
    "ignored": [n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    "descriptors": sorted(listing())[3:],
    "input": sys.stdin.read(),
    "streams": [
        [s.encoding, s.errors, s.line_buffering, s.write_through, s.mode, s.isatty()]
        for s in (sys.stdin, sys.stdout, sys.stderr)
    ],
    "package": __import__("pcode").__file__,
}))
"""


def run(python: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments."""
    options = {"env": ENVIRONMENT, "input": "", **options}
    return subprocess.run(
        [python, *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
        **options,
    )


def is_forked(*arguments: str, **options: Any) -> bool:
    """Whether the server forks that program: torch is there without being imported."""
    done = run(quick_python(), *arguments, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout == "True\n"


HAS_TORCH = "import sys; print('torch' in sys.modules)"


@pytest.fixture(params=["real", "forked"])
def python(request: pytest.FixtureRequest) -> str:
    """Every expectation holds for a real start as well."""
    return sys.executable if request.param == "real" else quick_python()


@pytest.mark.parametrize("kind", ["script", "module", "code", "unbuffered"])
def test_a_program_finds_what_it_would_find(tmp_path: Path, kind: str) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place/probe.py").write_text(PROBE)
    (tmp_path / "link.py").symlink_to("place/probe.py")
    reader, writer = os.pipe()
    start = {
        "script": ["./link.py"],
        "module": ["-m", "place.probe"],
        "code": ["-c", PROBE],
        "unbuffered": ["-u", "place/probe.py"],
    }[kind]

    def set_up() -> None:
        os.umask(0o27)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1})
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    found = []
    for interpreter in (sys.executable, quick_python()):
        done = run(
            interpreter,
            *(*start, "an argument", "--flag"),
            cwd=tmp_path,
            input="words\n",
            env={**ENVIRONMENT, "PYTHONPATH": str(ROOT), "OF_TEST": "ü"},
            pass_fds=[reader, writer],
            preexec_fn=set_up,
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    for end in (reader, writer):
        os.close(end)
    assert found[0] == found[1]
    assert found[0]["environment"]["OF_TEST"] == "ü"
    assert [number for number, _ in found[0]["descriptors"]] == [reader, writer]


@pytest.mark.parametrize(
    ("code", "status", "output", "errors"),
    [
        ("print('said')", 0, "said\n", ""),
        ("import sys; sys.exit(7)", 7, "", ""),
        ("import sys; sys.exit('a reason')", 1, "", "a reason\n"),
        ("import os; os._exit(9)", 9, "", ""),
        ("import os; os.kill(os.getpid(), 9)", -9, "", ""),
        ("import os; os.kill(os.getpid(), 15)", -15, "", ""),
        ("import os; os.abort()", -signal.SIGABRT, "", ""),
        (
            "1 / 0",
            1,
            "",
            'Traceback (most recent call last):\n  File "<string>", line 1, in <module>\n'
            "ZeroDivisionError: division by zero\n",
        ),
        (
            "raise KeyboardInterrupt",
            -2,
            "",
            'Traceback (most recent call last):\n  File "<string>", line 1, in <module>\n'
            "KeyboardInterrupt\n",
        ),
        (
            "import atexit; atexit.register(print, 'at exit'); print('said')",
            0,
            "said\nat exit\n",
            "",
        ),
        (
            "import threading, time\nthreading.Timer(.05, print, ['by a thread']).start()",
            0,
            "by a thread\n",
            "",
        ),
        ("import sys; file = open(1, 'w', closefd=False); file.write('kept')", 0, "kept", ""),
    ],
)
def test_ends_are_those_of_an_interpreter(
    python: str, code: str, status: int, output: str, errors: str
) -> None:
    done = run(python, "-c", code)
    assert (done.returncode, done.stdout) == (status, output)
    # Newer interpreters mark the place in a line of its own.
    kept = [line for line in done.stderr.splitlines(True) if line.strip(" ~^\n")]
    assert "".join(line for line in kept if not line.startswith("    ")) == errors


WAITING = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
signal.signal(signal.SIGUSR1, lambda *_: print("heard", flush=True))
print(os.getpid(), flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def waiting(python: str) -> Any:
    """A program that waits for signals, with its own process id."""
    process = subprocess.Popen(
        [python, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    assert process.stdout is not None
    yield process, int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 7), (signal.SIGINT, -2), (signal.SIGHUP, -1)]
)
def test_signals_reach_the_program(waiting: Any, number: int, status: int) -> None:
    process, _ = waiting
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == b"heard\n"
    process.send_signal(number)
    assert process.wait(LIMIT_SECONDS) == status


def test_a_program_ends_with_who_stands_for_it(waiting: Any) -> None:
    process, program = waiting
    end = os.pidfd_open(program)
    process.kill()
    assert process.wait(LIMIT_SECONDS) == -9
    assert select.select([end], [], [], LIMIT_SECONDS)[0]
    os.close(end)


def test_the_server_outlives_a_program_that_ends_as_it_is_killed() -> None:
    """The ends of a program and of who stands for it, both before the server looks."""
    with subprocess.Popen(
        [quick_python(), "-c", WAITING], stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        program = psutil.Process(int(process.stdout.readline()))
        server = program.parents()[0]
        server.suspend()
        try:
            end = os.pidfd_open(program.pid)
            program.kill()
            assert select.select([end], [], [], LIMIT_SECONDS)[0]
            os.close(end)
            process.kill()
            process.wait(LIMIT_SECONDS)
        finally:
            server.resume()
    assert is_forked("-c", HAS_TORCH)


def test_a_fork_is_named_after_who_stands_for_it() -> None:
    with subprocess.Popen(
        [quick_python(), "-c", WAITING], stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        program = int(process.stdout.readline())
        assert psutil.Process(program).name() == f"fork {process.pid}"
        process.kill()


def test_ranks_are_forked_and_finalise_mpi() -> None:
    program = (
        "import sys; forked = 'torch' in sys.modules\n"
        "from mpi4py import MPI\n"
        "print(forked, MPI.COMM_WORLD.allreduce(1 + MPI.COMM_WORLD.rank), flush=True)\n"
    )
    done = run_mpi(3, ["-c", program], LIMIT_SECONDS)
    # mpirun fails where a rank ends without finalising.
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["True 6"] * 3


def test_programs_start_others_as_quickly() -> None:
    program = (
        "import subprocess, sys\n"
        f"sys.exit(subprocess.run([sys.executable, '-c', {HAS_TORCH!r}]).returncode)"
    )
    assert is_forked("-c", HAS_TORCH)
    assert is_forked("-c", program)


def lower_limit() -> None:
    import resource  # noqa: PLC0415  # where it runs

    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["-X", "utf8", "-c", HAS_TORCH], {}),
        (["-c", HAS_TORCH], {"env": {**ENVIRONMENT, "OMP_NUM_THREADS": "2"}}),
        (["-c", HAS_TORCH], {"env": {**ENVIRONMENT, "PYTHONHASHSEED": "1"}}),
        (["-c", HAS_TORCH], {"preexec_fn": lower_limit}),
        (["-c", HAS_TORCH], {"preexec_fn": lambda: os.close(0), "input": None}),
    ],
    ids=["option", "threads", "hash", "limit", "closed"],
)
def test_what_a_fork_cannot_be_is_started_really(
    arguments: list[str], options: dict[str, Any]
) -> None:
    assert not is_forked(*arguments, **options)


def test_another_package_of_that_name_is_started_really(tmp_path: Path) -> None:
    (tmp_path / "pcode.py").write_text("")
    assert not is_forked("-c", HAS_TORCH, cwd=tmp_path)


STARTING = """
import subprocess, sys
from tests.support.python import quick_python
python = quick_python()
print(python, flush=True)
program = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
subprocess.run([python, "-c", program])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_the_tests_are_ended(number: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTING],
        cwd=ROOT,
        env=OF_THEIR_OWN,
        stdout=subprocess.PIPE,
        text=True,
    ) as tests:
        assert tests.stdout is not None
        try:
            python, program = Path(tests.stdout.readline().strip()), int(tests.stdout.readline())
            forked = psutil.Process(program)
            standing = psutil.Process(int(forked.name().removeprefix("fork ")))
            watched = [forked, forked.parents()[0], standing]
        finally:
            tests.send_signal(number)
        _, left = psutil.wait_procs(watched, LIMIT_SECONDS)
    assert left == []
    assert not python.parent.exists()


INTERRUPTED = """
import sys
from tests.support.programs import run_mpi
rank = '''
import os, signal, sys
with open(sys.argv[1], "w") as told:
    print(os.getpid(), os.environ["OMPI_MCA_btl_sm_backing_directory"], file=told)
signal.pause()
'''
run_mpi(2, ["-c", rank, sys.argv[1]], timeout=100)
"""


def test_ctrl_c_ends_what_a_test_has_started(tmp_path: Path) -> None:
    path = tmp_path / "ranks"
    os.mkfifo(path)
    told = os.open(path, os.O_RDWR)
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(path)],
        cwd=ROOT,
        env=OF_THEIR_OWN,
        stderr=subprocess.PIPE,
    ) as tests:
        try:
            words: list[bytes] = []
            while len(words) < 4:
                assert select.select([told], [], [], LIMIT_SECONDS)[0]
                words += os.read(told, 4096).split()
            ranks = [psutil.Process(int(word)) for word in words[::2]]
        finally:
            tests.send_signal(signal.SIGINT)
        _, errors = tests.communicate(timeout=LIMIT_SECONDS)
    os.close(told)
    assert tests.returncode == -signal.SIGINT, errors
    assert psutil.wait_procs(ranks, LIMIT_SECONDS)[1] == []
    assert not any(Path(os.fsdecode(folder)).exists() for folder in words[1::2])
