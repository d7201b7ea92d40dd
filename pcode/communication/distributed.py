"""Nodes as processes, over torch.distributed: mpi, gloo or nccl."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist

from pcode import mpi_backend
from pcode.communication.base import ProcessCommunicator, TensorsByPeer, Wait
from pcode.mpi_backend import MPIError
from pcode.utils.errors import CommunicationError

NCCL_GRACE_SECONDS = 60.0


def nccl_limit(limit_seconds: float) -> timedelta:
    """Return what NCCL is given for a time limit of so many seconds.

    At its own limit it ends the process without a word. Before that, who waits is to have said so,
    after a step that takes the limit, a wait of the limit, and the peers' time to answer.
    """
    return timedelta(seconds=4 * limit_seconds + NCCL_GRACE_SECONDS)


def new_group(
    ranks: list[int] | None, limit: timedelta, backend: str | None = None
) -> dist.ProcessGroup | None:
    """Return a group of these ranks, of all if None; None on those that are no members."""
    # Where NCCL's default group is bound to a GPU, torch before 2.15 lets those that are no members
    # of a group over gloo take part in a split of NCCL's communicator, in which its members do not.
    # Members that synchronise by themselves leave the others alone.
    over_gloo = backend == "gloo"
    made = dist.new_group(
        ranks, timeout=limit, backend=backend, use_local_synchronization=over_gloo
    )
    # Who is no member gets a number.
    return made if isinstance(made, dist.ProcessGroup) else None


@contextmanager
def naming(
    rank: int, peer: int | None = None, step: int | None = None, local_size: int = 1
) -> Iterator[None]:
    """Raise a CommunicationError that names rank, peer and step for any error of the block.

    It names nodes, of `local_size` processes each.
    """
    try:
        yield
    except RuntimeError as error:
        reason, by_peer = str(error).strip().splitlines()[0], False
        if isinstance(error, MPIError | CommunicationError):
            reason, rank, by_peer = error.reason, error.rank, error.reported_by_peer
            peer = peer if error.peer is None else error.peer
        failure = CommunicationError(
            reason, rank=rank, peer=peer, step=step, reported_by_peer=by_peer
        )
        raise failure.by_node(local_size) from error


class DistributedCommunicator(ProcessCommunicator):
    """One process's view of the others, over a group of torch.distributed.

    The time limit is the group's: init_process_group(timeout=...). Tensors must lie on a device
    that the group's backend serves. Errors name nodes, of `local_size` processes each.

    Args:
        group: one of which this process is a member; None: the default group, of all.
        host_group: the same processes over gloo, for tensors in host memory, where the group is
            NCCL's, which serves those of GPUs alone.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        host_group: dist.ProcessGroup | None = None,
        local_size: int = 1,
    ) -> None:
        self._group, self._host_group = group, host_group
        self._naming = partial(naming, dist.get_rank(), local_size=local_size)
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.names_peers = host_group is None

    def _exchange(self, outgoing: TensorsByPeer, incoming: TensorsByPeer, step: int | None) -> Wait:
        # Sends first, so that they go out before the answers to what others send: four hosts in a
        # ring exchange 1.2 MB each way at 95 of the links' 100 Mbit/s, and receives first at 50.
        group = self._serving(*outgoing.values(), *incoming.values())
        operations = [
            dist.P2POp(move, tensor, group=group, group_peer=peer)
            for move, tensors in ((dist.isend, outgoing), (dist.irecv, incoming))
            for peer, tensor in tensors.items()
        ]
        with self._naming(step=step):
            works = dist.batch_isend_irecv(operations) if operations else []
        # A backend that coalesces returns one work for all operations: no single peer then.
        is_one_each = len(works) == len(operations)

        def wait() -> None:
            for work, operation in zip(works, operations, strict=False):
                with self._naming(operation.peer if is_one_each else None, step):
                    work.wait()

        return wait

    def _all_reduce(self, tensor: torch.Tensor, step: int | None) -> None:
        with self._naming(step=step):
            dist.all_reduce(tensor, group=self._serving(tensor))

    def all_gather(self, tensor: torch.Tensor, step: int | None = None) -> list[torch.Tensor]:
        gathered = [torch.empty_like(tensor) for _ in range(self.size)]
        with self._naming(step=step):
            dist.all_gather(gathered, tensor, group=self._serving(tensor))
        return gathered

    def broadcast(self, tensor: torch.Tensor, step: int | None = None) -> None:
        with self._naming(step=step):
            dist.broadcast(tensor, group=self._serving(tensor), group_src=0)

    def barrier(self, step: int | None = None) -> None:
        with self._naming(step=step):
            dist.barrier(self._serving())

    def group(
        self, ranks: range, limit_seconds: float, local_size: int
    ) -> DistributedCommunicator | None:
        with self._naming():
            limit, host_group = timedelta(seconds=limit_seconds), None
            if self._host_group is not None:
                host_group = new_group(list(ranks), limit, "gloo")
                limit = nccl_limit(limit_seconds)
            group = new_group(list(ranks), limit)
        return None if group is None else DistributedCommunicator(group, host_group, local_size)

    def _serving(self, *tensors: torch.Tensor) -> dist.ProcessGroup | None:
        """Return the group that takes these tensors, all of one device; with none, of the host."""
        if self._host_group is None or any(tensor.is_cuda for tensor in tensors):
            return self._group
        return self._host_group

    def _recover(self, reason: str) -> tuple[DistributedCommunicator, list[int]]:
        backend = dist.get_backend()
        if "mpi" not in backend:
            text = f"the backend {backend} cannot go on after a failure; mpi and sim can"
            raise CommunicationError(text, rank=self.rank)
        with self._naming():
            survivors = mpi_backend.recover(reason)
        return DistributedCommunicator(), survivors
