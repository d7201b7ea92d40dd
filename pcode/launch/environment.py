"""Who am I? A rank of an MPI, torchrun or Slurm run, or the process that has to start one."""

import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

from pcode.launch.hostfile import MOST_BYTES, short_name
from pcode.utils.errors import UserError
from pcode.utils.files import read_text

# Below the ports that Linux hands out by itself (from 32768 on).
_FIRST_PORT, _NUM_PORTS = 12_000, 20_000
# slurm.h: step numbers from here on are not steps of srun but the batch script, an interactive
# shell and the like.
_FIRST_RESERVED_STEP = 0xFFFFFFF0

# What is read here and by what computes.
_READ = re.compile(
    r"(LOCAL|MASTER|NUMBA|OMP|OMPI|PBS|PCODE|PMI|PMIX|PRTE|SLURM|THP|TORCHELASTIC)_.*"
    r"|CC|CXX|RANK|WORLD_SIZE"
)

Kind = Literal["mpi", "torchrun", "slurm"]


@dataclass(frozen=True)
class RankEnvironment:
    """This process's place among the ranks, over all machines and on this one, counted from 0.

    They were started by an MPI's mpirun (or srun with PMIx or PMI), by torchrun or a manager that
    sets the same variables, or by a plain Slurm step, which say so.
    """

    kind: Kind
    rank: int
    num_ranks: int
    local_rank: int
    num_local_ranks: int
    variables: str = field(default="", compare=False, kw_only=True)  # that say so

    @property
    def started(self) -> str:
        """How many ranks there are, and who says so, for an error."""
        return (
            f"{self.num_ranks} ranks were started ({self.kind}, by {self.variables} in the "
            "environment)"
        )

    @property
    def all_here(self) -> bool:
        """Whether all ranks run on this machine."""
        return self.num_local_ranks == self.num_ranks

    def __post_init__(self) -> None:
        if not (
            self.rank < self.num_ranks and self.local_rank < self.num_local_ranks <= self.num_ranks
        ):
            raise UserError(
                f"the {self.kind} environment contradicts itself: rank {self.rank} of "
                f"{self.num_ranks}, local rank {self.local_rank} of {self.num_local_ranks}"
            )


def drop_empty() -> None:
    """Drop variables without a value (`OMP_NUM_THREADS=$UNSET`): it is as if they were not set.

    To be called before torch and Numba are imported, which read theirs then. Numba cannot be
    imported with no threads of its own, which no kernel uses.
    """
    for name, value in [*os.environ.items()]:
        is_empty = not value.strip() and _READ.fullmatch(name)
        if is_empty or (name == "NUMBA_NUM_THREADS" and re.fullmatch(r"-\d+|0+", value.strip())):
            del os.environ[name]


def detect(environ: Mapping[str, str] = os.environ) -> RankEnvironment | None:
    """Return the place of this process among ranks, or None where none were started.

    The innermost launcher wins: torchrun under srun is torchrun, mpirun in a Slurm job is mpirun.
    A step of one task (`srun --pty bash`) is a shell, not a rank. It is a UserError where the
    variables are not numbers or contradict each other.
    """
    step_tasks = _num_step_tasks(environ)
    if "TORCHELASTIC_RUN_ID" in environ:
        return _torchrun(environ)
    if "OMPI_COMM_WORLD_RANK" in environ:
        names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
        return _read("mpi", environ, *(f"OMPI_COMM_WORLD_{name}" for name in names))
    if step_tasks is not None and step_tasks > 1:
        managed = "PMIX_RANK" in environ or "PMI_RANK" in environ
        return RankEnvironment(
            "mpi" if managed else "slurm",
            _whole_number(environ, "SLURM_PROCID"),
            step_tasks,
            _whole_number(environ, "SLURM_LOCALID"),
            _num_local_tasks(environ),
            variables="SLURM_PROCID and SLURM_STEP_NUM_TASKS",
        )
    if step_tasks is None and "PMI_RANK" in environ:
        # MPICH's mpirun
        return _read("mpi", environ, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
    if step_tasks is None and "PMIX_RANK" in environ:
        raise UserError(
            "PMIX_RANK is in the environment, but not the number of ranks: "
            "start the ranks with mpirun"
        )
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return _torchrun(environ)
    return None


def _torchrun(environ: Mapping[str, str]) -> RankEnvironment:
    # Kubernetes' PyTorchJob starts one rank in each container and sets no local numbers.
    alone = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    known = environ if "LOCAL_RANK" in environ else {**environ, **alone}
    return _read("torchrun", known, "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def _read(kind: Kind, environ: Mapping[str, str], *names: str) -> RankEnvironment:
    """Read the place from four variables: rank, number of ranks, and both on this machine."""
    least = zip(names, (0, 1, 0, 1), strict=True)
    numbers = (_whole_number(environ, name, minimum) for name, minimum in least)
    return RankEnvironment(kind, *numbers, variables=" and ".join(names[:2]))


def _num_step_tasks(environ: Mapping[str, str]) -> int | None:
    """Count the tasks of the srun step of this process, or None outside of one."""
    # The shell of an sbatch script has SLURM_PROCID=0 and the SLURM_NTASKS of the whole job too,
    # but no step number, or a reserved one.
    step = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID", ""))
    is_step = step.isdecimal() and int(step) < _FIRST_RESERVED_STEP
    if "SLURM_PROCID" not in environ or not is_step:
        return None
    name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    return _whole_number(environ, name, minimum=1)


def _num_local_tasks(environ: Mapping[str, str]) -> int:
    """Count the step's tasks on this machine, from `4(x2),3` and this machine's place in it."""
    name = "SLURM_STEP_TASKS_PER_NODE"
    text = environ.get(name, "")
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,6})(?:\(x([0-9]{1,6})\))?", part, re.ASCII)
        if match is None:
            raise UserError(f"{name}={text!r} in the environment: expected a list such as 4(x2),3")
        counts += [int(match[1])] * int(match[2] or 1)
    machine = _whole_number(environ, "SLURM_NODEID")
    if machine >= len(counts):
        raise UserError(f"SLURM_NODEID={machine} in the environment: {name}={text!r} has no such")
    return counts[machine]


def _whole_number(environ: Mapping[str, str], name: str, minimum: int = 0) -> int:
    """Return the number in the variable `name`; a UserError where it is none."""
    text = environ.get(name)
    if text is None:
        raise UserError(f"{name} is not set in the environment, though its companions are")
    if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) or int(text) < minimum:
        raise UserError(
            f"{name}={text!r} in the environment: expected a whole number of at least {minimum}"
        )
    return int(text)


def check_ranks(
    environment: RankEnvironment, backend: str, num_nodes: int, num_local_ranks: int
) -> None:
    """Raise a UserError where other ranks were started than the run needs, or can be."""
    if backend == "sim":
        raise UserError(
            f"--backend sim: {environment.started}, but it runs all nodes in one process; "
            "run it without mpirun, torchrun or srun, and without their variables"
        )
    if environment.num_ranks != num_nodes * num_local_ranks:
        each = f" --n_sub_process {num_local_ranks}" if num_local_ranks > 1 else ""
        raise UserError(
            f"--n_mpi_process {num_nodes}{each}: {environment.started}; "
            f"{num_nodes * num_local_ranks} are needed"
        )
    if environment.kind != "mpi" and backend == "mpi":
        raise UserError(
            f"--backend mpi: {environment.kind} starts no MPI ranks; use mpirun, or --backend gloo"
        )


def num_nodes_of(environment: RankEnvironment, num_local_ranks: int) -> int:
    """Return how many nodes of so many ranks these are; a UserError: no whole number."""
    num_nodes, left = divmod(environment.num_ranks, num_local_ranks)
    if left:
        raise UserError(
            f"--n_sub_process {num_local_ranks}: {environment.started}, which are no whole number "
            "of nodes"
        )
    return num_nodes


def rendezvous_address(environ: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Return host and port at which rank 0 of torch.distributed listens for the others.

    MASTER_ADDR and MASTER_PORT where they are set. Otherwise every rank derives the same: in a
    Slurm step, its first host and a port from the numbers of job and step; under Open MPI on a
    single machine, that machine and a port from the name of the MPI job. It is a UserError where
    the variables are malformed, or there is nothing to derive an address from.
    """
    if "MASTER_ADDR" in environ and "MASTER_PORT" in environ:
        port = _whole_number(environ, "MASTER_PORT", minimum=1)
        if port >= 1 << 16:
            raise UserError(f"MASTER_PORT={port} in the environment: expected at most 65535")
        return environ["MASTER_ADDR"], port
    found = detect(environ)
    if found is not None and "OMPI_COMM_WORLD_RANK" in environ:
        if found.all_here and "PMIX_NAMESPACE" in environ:
            return "127.0.0.1", derived_port(environ["PMIX_NAMESPACE"])
    elif _num_step_tasks(environ) is not None:
        nodes = environ.get("SLURM_STEP_NODELIST", environ.get("SLURM_JOB_NODELIST", ""))
        first = next(hosts_of(nodes), None)
        if first is None:
            raise UserError("SLURM_STEP_NODELIST is not set in the environment of a Slurm step")
        job = _whole_number(environ, "SLURM_JOB_ID")
        step = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID"))
        return first, derived_port(f"{job}.{step}")
    raise UserError(
        "MASTER_ADDR and MASTER_PORT are not set: set them to a host and a free port of rank 0, "
        "with --mpi_env MASTER_ADDR=HOST,MASTER_PORT=PORT where mpirun starts the ranks"
    )


def hosts_of(nodelist: str) -> Iterator[str]:
    """Yield the hosts of a Slurm node list, as `node[01-03,7],login`."""
    malformed = UserError(
        f"{nodelist!r} in Slurm's environment: expected names such as node[01-03,7]"
    )

    def numbers(ranges: str) -> Iterator[str]:
        for each in ranges.split(","):
            found = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", each, re.ASCII)
            if found is None or int(found[1]) > int(found[2] or found[1]):
                raise malformed
            for number in range(int(found[1]), int(found[2] or found[1]) + 1):
                yield str(number).zfill(len(found[1]))

    # A comma separates hosts only outside of brackets.
    for name in filter(None, re.split(r",(?![^\[\]]*\])", nodelist)):
        texts = re.split(r"\[([^\[\]]*)\]", name)  # with ranges in between
        if any(re.search(r"[\[\]]", text) for text in texts):  # a bracket without its other half
            raise malformed
        each = [[text] if i % 2 == 0 else [*numbers(text)] for i, text in enumerate(texts)]
        yield from map("".join, product(*each))


def allocated_hosts(environ: Mapping[str, str] = os.environ) -> frozenset[str]:
    """Return the short names of the hosts that Slurm or PBS says a job has; empty: there is none.

    Variables may be inherited from a job of other hosts, by a shell or a container.
    """
    hosts = [*hosts_of(environ.get("SLURM_JOB_NODELIST", environ.get("SLURM_NODELIST", "")))]
    with suppress(ValueError):  # that of another host is not here
        hosts += read_text(environ.get("PBS_NODEFILE", ""), MOST_BYTES).split()
    return frozenset(map(short_name, hosts))


def derived_port(name: str) -> int:
    """Return a port that everyone who knows the name of a job arrives at."""
    return _FIRST_PORT + zlib.crc32(name.encode()) % _NUM_PORTS
