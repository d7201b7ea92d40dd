"""Where the ranks of a world find rank 0: addresses, torch's store, and the environment."""

import os
import socket
from datetime import timedelta

import psutil
from mpi4py import MPI
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Store

from pcode.mpi_backend.errors import MPISetupError
from pcode.mpi_backend.world import World

PROBE_SECONDS = 2.0  # for each address of rank 0 that another rank tries


def create_store(world: World, timeout: timedelta) -> Store:
    """A store on rank 0, at the first of its addresses that this rank reaches; collective.

    Raises:
        MPISetupError: rank 0 cannot be reached.
        MPIError: not all ranks have come within the time limit.
    """
    server, offer = None, None
    if world.rank == 0:
        server = TCPStore("0.0.0.0", 0, is_master=True, wait_for_workers=False, timeout=timeout)
        offer = (_addresses(), server.port)
    addresses, port = world.call(
        "start of the store", timeout.total_seconds(), lambda: world.comm.bcast(offer)
    )
    if server is not None:
        return server
    host = _reachable(addresses, port)
    return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)


def environment_of(world: World, limit: float) -> dict[str, str]:
    """What torch.distributed's env:// and launchers' programs read; collective."""
    comm = world.comm
    node = world.call("ranks of this host", limit, lambda: comm.Split_type(MPI.COMM_TYPE_SHARED))
    offer = None
    if world.rank == 0:
        with socket.socket() as probe:
            probe.bind(("", 0))
            addresses = ["127.0.0.1"] if node.Get_size() == world.size else _addresses()
            offer = (addresses[0], probe.getsockname()[1])
    address, port = world.call("address of rank 0", limit, lambda: comm.bcast(offer))
    environment = {
        "RANK": str(world.rank),
        "WORLD_SIZE": str(world.size),
        "LOCAL_RANK": str(node.Get_rank()),
        "LOCAL_WORLD_SIZE": str(node.Get_size()),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }
    node.Free()
    return environment


def _addresses() -> list[str]:
    """Addresses and name of this host, what the user has named first, the loopback last."""
    found = [os.environ["MASTER_ADDR"]] if "MASTER_ADDR" in os.environ else []
    for interface in psutil.net_if_addrs().values():
        found += [each.address for each in interface if each.family == socket.AF_INET]
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
    raise MPISetupError(
        f"rank 0 cannot be reached on port {port} ({'; '.join(failures)}): "
        "give an address of its host in MASTER_ADDR"
    )
