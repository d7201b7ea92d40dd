"""The names of torch that are not public and are replaced.

Read in torch 2.11, tested with 2.13 and 2.15.
"""

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d
from torch.distributed.distributed_c10d import Backend, Store


def register_backend(
    create_group: Callable[[Any, object | None], Any],
    create_group_of: Callable[[list[int]], Any],
    create_store: Callable[[], Store],
) -> None:
    """Make "mpi" a backend of torch.distributed; is_mpi_available() is True from now on."""
    if hasattr(Backend, "_ensure_backend_registered"):  # torch 2.14 and later
        Backend.register_backend("mpi", create_group, extended_api=True, devices=["cpu"])
    else:
        # The name does not go through the registered backends, but through a class that only
        # builds with MPI contain. It gets ranks (none: all), but neither time limit nor name.
        group_class = type("ProcessGroupMPI", (), {"create": staticmethod(create_group_of)})
        distributed_c10d.ProcessGroupMPI = group_class  # type: ignore[assignment,misc]
    # For "mpi" init_process_group makes a placeholder, the only call of the name `Store` there.
    distributed_c10d.Store = create_store  # type: ignore[assignment,misc]
    distributed_c10d._MPI_AVAILABLE = True
    assert dist.is_mpi_available()
