"""How the nodes of a run are started and talk: the flags, and what they decide."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from pcode.utils.errors import UserError
from pcode.utils.options import needs, option

MOST_PROCESSES = 4096
Flags = Mapping[str, Any]


def not_needed(flags: Flags) -> str:
    return "it is not needed any more"


def _mpi_launch(flags: Flags) -> str | None:
    if flags["backend"] == "sim":
        return "--backend sim runs all nodes in this process"
    if flags["n_mpi_process"] * flags["n_sub_process"] == 1:
        return "one node runs in this process"
    return None


def uses_gpus(flags: Flags) -> bool:
    """Return whether nodes train on GPUs, or may: other hosts are not known."""
    on_cuda: bool | None = flags["on_cuda"]
    if on_cuda is not None:
        return on_cuda
    return flags["hostfile"] is not None or torch.cuda.is_available()


def _waiting_for_nobody(flags: Flags) -> str | None:
    if flags["data"] == "imagenet":  # but for loader processes
        return None
    return needs("backend", "simulated nodes need no time limit", "sim".__ne__)(flags)


def _without_gpus(flags: Flags) -> str | None:
    return None if uses_gpus(flags) else "no node uses a GPU"


def _without_cuda_messages(flags: Flags) -> str | None:
    if uses_gpus(flags) and flags["comm_device"] == "cpu":
        return "messages are exchanged in host memory with --comm_device cpu"
    return _without_gpus(flags)


def _names(variables: str | None) -> str | None:
    """Return the list without its values, which may be secrets, as may be pieces of them."""
    if variables is None:
        return None
    here = set(os.environ)  # os.environ itself raises where a name cannot be one
    parts = (part.strip().partition("=") for part in variables.split(","))
    return ",".join(name for name, equals, _ in parts if equals or name in here)


# Options of an mpirun.
_of_mpirun = partial(option, None, irrelevant=_mpi_launch, compared=False, starts=True)


@dataclass(frozen=True)
class Launch:
    """Launch and devices"""

    n_mpi_process: int = option(2, "number of nodes", minimum=1, maximum=MOST_PROCESSES)
    n_sub_process: int = option(
        1,
        "GPUs of a node (processes on the CPU): they share its batches, average their gradients",
        minimum=1,
        maximum=MOST_PROCESSES,
    )
    world: tuple[int, ...] = option(
        (0,),
        "GPU id of every GPU of the run, node after node; repeated cyclically when short",
        metavar="GPU",
        minimum=0,
        irrelevant=_without_gpus,
    )
    hostfile: str | None = _of_mpirun(
        "file of `HOST slots=N` lines; none: this machine", metavar="FILE"
    )
    backend: str = option(
        "mpi",
        "how nodes talk; sim: all nodes in this process",
        choices=("mpi", "nccl", "gloo", "sim"),
        metavar="NAME",
    )
    python_path: str | None = _of_mpirun(
        "interpreter on the hosts; none: this one", metavar="PYTHON"
    )
    mpi_path: str | None = _of_mpirun(
        "prefix of the MPI installation; none: the installed one", metavar="DIR"
    )
    mpi_env: str | None = _of_mpirun(
        "variables handed to the ranks; a name alone: with the value that it has here",
        metavar="A=1,B",
        recorded=_names,
    )
    work_dir: str | None = _of_mpirun(
        "working directory on the hosts; none: this one", metavar="DIR"
    )
    use_ipc: bool = option(
        False, "CUDA IPC in the MPI's shared-memory transport", irrelevant=_without_cuda_messages
    )
    on_cuda: bool | None = option(None, "train on GPUs; auto: where there is one")
    comm_device: str | None = option(
        None,
        "where messages are exchanged; none: where the model is",
        choices=(None, "cpu", "cuda"),
        irrelevant=_without_gpus,
    )
    num_threads: int | None = option(
        None,
        "CPU threads of a process; none: cores / processes on this machine",
        minimum=1,
        maximum=4096,
    )
    time_limit_seconds: float = option(
        300.0,
        "a message that takes longer is an error; on_failure says what then",
        metavar="SECONDS",
        minimum=0.001,
        maximum=1e7,
        irrelevant=_waiting_for_nobody,
    )
    check_messages: bool = option(
        True,
        "compare checksums of the messages of each edge before every checkpoint",
        irrelevant=needs("backend", "messages of simulated nodes stay in memory", "sim".__ne__),
    )
    max_restarts: int = option(
        0,
        "after a failure, start again from the last checkpoint, so many times",
        minimum=0,
        irrelevant=_mpi_launch,
    )
    on_failure: str = option(
        "stop",
        "stop: a node that dies ends the run; continue: go on without nodes that died (mpi), and "
        "let one whose numbers are not finite take the others' model (mpi, sim)",
        choices=("stop", "continue"),
        metavar="ACTION",
    )
    local_rank: int | None = option(None, "accepted; nodes find their rank", irrelevant=not_needed)
    remote_exec: bool = option(False, "accepted; a hostfile says where", irrelevant=not_needed)
    clean_python: bool = option(False, "accepted; no process is left", irrelevant=not_needed)
    user: str | None = option(None, "a label of the run", compared=False)
    project: str | None = option(None, "a label of the run", compared=False)

    def __post_init__(self) -> None:
        if self.num_processes > MOST_PROCESSES:
            raise UserError(
                f"--n_mpi_process {self.n_mpi_process} --n_sub_process {self.n_sub_process}: "
                f"{self.num_processes:,} processes; at most {MOST_PROCESSES}"
            )

    @property
    def checks_messages(self) -> bool:
        """Whether nodes keep checksums of what they send and receive."""
        return self.check_messages and self.backend != "sim"

    @property
    def num_processes(self) -> int:
        """Ranks of the run, node after node."""
        return self.n_mpi_process * self.n_sub_process
