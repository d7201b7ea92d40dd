"""The torch.distributed process group over mpi4py: what torch calls, in terms of collectives."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from mpi4py import MPI
from torch.distributed import ReduceOp
from torch.distributed.distributed_c10d import PrefixStore, Store

from pcode.mpi_backend.collectives import Channel, ContiguousTensors, as_contiguous
from pcode.mpi_backend.operation import Steps
from pcode.mpi_backend.progress import Progress
from pcode.mpi_backend.reduction import Reduction
from pcode.mpi_backend.torch_internals import hidden_from_dynamo
from pcode.mpi_backend.work import Callbacks, MPIWork
from pcode.mpi_backend.world import World

Tensors = list[torch.Tensor]

# torch's stub declares overloads that its own callers never use; they are not repeated here.
ProcessGroup: Any = dist.ProcessGroup

_ALL_REDUCE, _BROADCAST = dist.AllreduceOptions(), dist.BroadcastOptions()
_REDUCE, _REDUCE_SCATTER = dist.ReduceOptions(), dist.ReduceScatterOptions()
_GATHER, _SCATTER = dist.GatherOptions(), dist.ScatterOptions()


@hidden_from_dynamo
class MPIProcessGroup(ProcessGroup):  # type: ignore[misc]
    """A torch.distributed.ProcessGroup of MPI ranks with communicators of its own.

    Collective over its members (not over all ranks). Tensors are dense and in host memory;
    contiguous ones are sent and received in place. Operations of one group are to be started in
    the same order on all its ranks; different groups and point-to-point messages are independent
    of each other and may be used by several threads at once.

    Args:
        world_ranks: the members' ranks in the world, in the order of their ranks here.
        name: by which C++ finds it; another one for every group of this process.

    Raises:
        MPIError: not all members have come within the time limit.
    """

    def __init__(
        self,
        store: Store | None,
        world_ranks: Sequence[int],
        timeout: timedelta,
        name: str,
        *,
        world: World,
        progress: Progress,
    ) -> None:
        ranks = list(world_ranks)
        self._world = world
        arguments = (ranks.index(world.rank), len(ranks))
        super().__init__(*arguments) if store is None else super().__init__(store, *arguments)
        self._name, self._description = name, "undefined"
        self._numbers = itertools.count()  # of its parts that are given no name
        self._limit = timeout.total_seconds()
        self._ranks, self._progress, self._callbacks = ranks, progress, Callbacks()
        self._work = partial(MPIWork, world=world, progress=progress, callbacks=self._callbacks)
        world.raise_fault()
        world.open_notices(self._limit)

        def create() -> tuple[MPI.Intracomm, MPI.Intracomm]:
            if world.predecessor is not None and len(ranks) == world.size:
                return world.duplicate(), world.duplicate()
            group = world.comm.Get_group().Incl(ranks)
            # Of groups that are made at once by several threads. Not from the name: torch numbers
            # groups differently on ranks that need not take part in making one.
            tag = zlib.crc32(repr(ranks).encode()) % (1 << 20)
            messages = world.comm.Create_group(group, tag)
            group.Free()
            return messages, messages.Dup()

        messages, collectives = world.call(f"new group of ranks {ranks}", self._limit, create)
        world.groups += (messages, collectives)
        self._messages = Channel(messages, ranks)
        self._channel = Channel(collectives, ranks)  # of collective operations alone

    def _start(
        self,
        name: str,
        steps: Steps,
        result: Tensors,
        inputs: Tensors,
        opts: Any = None,
        *,
        one_step: bool = False,
    ) -> MPIWork:
        limit, in_background = self._limit, True
        if opts is not None:
            if opts.timeout > timedelta(0):
                limit = opts.timeout.total_seconds()
            in_background = opts.asyncOp
        return self._work(
            name, steps, result, inputs, limit=limit, one_step=one_step, in_background=in_background
        )

    def _collective(
        self,
        name: str,
        steps: Sequence[Steps],
        received: ContiguousTensors,
        inputs: Tensors,
        opts: Any,
    ) -> MPIWork:
        """Start these steps, one after the other, and copy back what they have received."""

        def all_steps() -> Steps:
            for each in steps:
                yield from each
            received.copy_back()

        return self._start(name, all_steps(), received.tensors, inputs, opts)

    # Messages between two ranks

    def send(self, tensors: Tensors, dst: int, tag: int) -> MPIWork:
        (tensor,) = tensors
        steps = self._messages.point_to_point(tensor, dst, tag, receiving=False)
        return self._start("send", steps, tensors, tensors, one_step=True)

    def recv(self, tensors: Tensors, src: int, tag: int, name: str = "recv") -> MPIWork:
        (tensor,) = tensors
        steps = self._messages.point_to_point(tensor, src, tag, receiving=True)
        return self._start(name, steps, tensors, tensors, one_step=True)

    def recv_anysource(self, tensors: Tensors, tag: int) -> MPIWork:
        """Start receiving one tensor from whichever rank sends one first."""
        return self.recv(tensors, MPI.ANY_SOURCE, tag, "recvAnySource")

    # Reductions

    def allreduce(self, tensors: Tensors | torch.Tensor, opts: Any = _ALL_REDUCE) -> MPIWork:
        """Set each tensor to its reduction over the ranks; opts may be a ReduceOp."""
        tensors = [tensors] if isinstance(tensors, torch.Tensor) else tensors
        if isinstance(opts, ReduceOp | ReduceOp.RedOpType):
            op, opts = opts, dist.AllreduceOptions()
            opts.reduceOp = op
        received, collective = ContiguousTensors(*tensors), self._channel.next()
        steps = [collective.all_reduce(buffer, opts.reduceOp) for buffer in received.buffers]
        return self._collective("all_reduce", steps, received, tensors, opts)

    allreduce_coalesced = allreduce

    def reduce(self, tensors: Tensors, opts: Any = _REDUCE) -> MPIWork:
        """Reduce the ranks' tensors into the root's."""
        (tensor,), root = tensors, opts.rootRank
        target = tensor if self._channel.rank == root else as_contiguous(tensor)
        received = ContiguousTensors(target)
        steps = [self._channel.next().reduce(received.buffers[0], opts.reduceOp, root)]
        return self._collective("reduce", steps, received, tensors, opts)

    def reduce_scatter(
        self, outputs: Tensors, inputs: list[Tensors], opts: Any = _REDUCE_SCATTER
    ) -> MPIWork:
        """output of rank i = reduction over j of inputs[i] of rank j."""
        received, collective = ContiguousTensors(*outputs), self._channel.next()
        steps = [
            collective.reduce_scatter(
                buffer.view(-1),
                [as_contiguous(piece).view(-1) for piece in pieces],
                Reduction(opts.reduceOp, buffer.dtype, collective.size),
            )
            for buffer, pieces in zip(received.buffers, inputs, strict=True)
        ]
        sent = list(itertools.chain(*inputs))
        return self._collective("reduce_scatter", steps, received, sent, opts)

    def reduce_scatter_single(
        self, output: torch.Tensor, input: torch.Tensor, opts: Any = _REDUCE_SCATTER
    ) -> MPIWork:
        """output of rank i = reduction over j of the i-th part of the input of rank j."""
        return self.reduce_scatter_single_coalesced([output], [input], opts)

    def reduce_scatter_single_coalesced(
        self, outputs: Tensors, inputs: Tensors, opts: Any = _REDUCE_SCATTER
    ) -> MPIWork:
        pieces = [self._split(as_contiguous(tensor)) for tensor in inputs]
        return self.reduce_scatter(outputs, pieces, opts)

    # Copies

    def broadcast(self, tensors: Tensors | torch.Tensor, opts: Any = _BROADCAST) -> MPIWork:
        """Set every rank's tensor to the root's; opts may be the root's rank in the group."""
        tensors = [tensors] if isinstance(tensors, torch.Tensor) else tensors
        if isinstance(opts, int):
            root, opts = opts, dist.BroadcastOptions()
            opts.rootRank = root
        (tensor,) = tensors
        received = ContiguousTensors(tensor)
        steps = [self._channel.next().broadcast(received.buffers[0], opts.rootRank)]
        return self._collective("broadcast", steps, received, tensors, opts)

    def allgather(self, outputs: list[Tensors], inputs: Tensors, opts: Any = None) -> MPIWork:
        """outputs[0][j] = the tensor of rank j."""
        return self.allgather_coalesced([[piece] for piece in outputs[0]], inputs, opts)

    def allgather_coalesced(
        self, output_lists: list[Tensors], inputs: Tensors, opts: Any = None
    ) -> MPIWork:
        """output_lists[j][k] = the k-th tensor of rank j."""
        received = ContiguousTensors(*(tensor for tensors in output_lists for tensor in tensors))
        pieces = [received.buffers[number :: len(inputs)] for number in range(len(inputs))]
        return self._all_gather(pieces, inputs, received, opts)

    def all_gather_single(
        self, output: torch.Tensor, input: torch.Tensor, opts: Any = None
    ) -> MPIWork:
        """Set the j-th part of output to the input of rank j."""
        return self.all_gather_single_coalesced([output], [input], opts)

    def all_gather_single_coalesced(
        self, outputs: Tensors, inputs: Tensors, opts: Any = None
    ) -> MPIWork:
        received = ContiguousTensors(*outputs)
        pieces = [self._split(buffer) for buffer in received.buffers]
        return self._all_gather(pieces, inputs, received, opts)

    def _all_gather(
        self, pieces: list[Tensors], inputs: Tensors, received: ContiguousTensors, opts: Any
    ) -> MPIWork:
        collective = self._channel.next()
        steps = [
            collective.all_to_all(outputs, [as_contiguous(tensor)] * collective.size)
            for outputs, tensor in zip(pieces, inputs, strict=True)
        ]
        return self._collective("all_gather", steps, received, inputs, opts)

    def gather(self, outputs: list[Tensors], inputs: Tensors, opts: Any = _GATHER) -> MPIWork:
        """outputs[0][j] of the root = the tensor of rank j; an empty list elsewhere."""
        (tensor,) = inputs
        received = ContiguousTensors(*(outputs[0] if outputs else ()))
        steps = self._channel.next().gather(received.buffers, as_contiguous(tensor), opts.rootRank)
        return self._collective("gather", [steps], received, inputs, opts)

    def scatter(self, outputs: Tensors, inputs: list[Tensors], opts: Any = _SCATTER) -> MPIWork:
        """Set the tensor of rank j to inputs[0][j] of the root; inputs are empty elsewhere."""
        received = ContiguousTensors(*outputs)
        (buffer,) = received.buffers
        pieces = [as_contiguous(tensor) for tensor in inputs[0]] if inputs else []
        steps = self._channel.next().scatter(buffer, pieces, opts.rootRank)
        sent = list(itertools.chain(*inputs))
        return self._collective("scatter", [steps], received, sent, opts)

    def alltoall(self, outputs: Tensors, inputs: Tensors, opts: Any = None) -> MPIWork:
        """outputs[j] of rank i = inputs[i] of rank j."""
        received, pieces = ContiguousTensors(*outputs), [as_contiguous(tensor) for tensor in inputs]
        steps = self._channel.next().all_to_all(received.buffers, pieces)
        return self._collective("all_to_all", [steps], received, inputs, opts)

    def all_to_all_single(
        self,
        output: torch.Tensor,
        input: torch.Tensor,
        output_split_sizes: list[int],
        input_split_sizes: list[int],
        opts: Any = None,
    ) -> MPIWork:
        """all_to_all of parts along the first dimension; equal ones where no sizes are given."""
        received = ContiguousTensors(output)
        steps = self._channel.next().all_to_all(
            self._split(received.buffers[0], output_split_sizes),
            self._split(as_contiguous(input), input_split_sizes),
        )
        return self._collective("all_to_all", [steps], received, [input], opts)

    def _split(self, tensor: torch.Tensor, sizes: list[int] | None = None) -> Tensors:
        """Return a contiguous tensor's parts, one per rank, each contiguous."""
        if sizes:
            return list(torch.split(tensor, sizes))
        if tensor.numel() % self._channel.size:
            raise ValueError(
                f"{tensor.numel()} elements are not divisible by {self._channel.size} ranks"
            )
        return list(tensor.view(self._channel.size, -1))

    def barrier(self, opts: Any = None) -> MPIWork:
        steps = self._channel.next().barrier()
        return self._collective("barrier", [steps], ContiguousTensors(), [], opts)

    def monitored_barrier(
        self, timeout: timedelta = timedelta(0), wait_all_ranks: bool = False
    ) -> None:
        """Return when all ranks have come; the first one's error names all that have not.

        It names them whatever wait_all_ranks is, and is final, as any other. The other ranks wait
        twice as long, to hear of it.
        """
        opts, token = dist.BarrierOptions(), torch.zeros(1, dtype=torch.uint8)
        seconds = timeout.total_seconds() or self._limit
        is_first = self._channel.rank == 0
        opts.timeout = timedelta(seconds=seconds if is_first else 2 * seconds)
        tokens = list(torch.zeros(self._channel.size, 1, dtype=torch.uint8)) if is_first else []
        steps = [
            self._channel.next().gather(tokens, token, 0),
            self._channel.next().broadcast(token, 0),
        ]
        work = self._collective("monitored_barrier", steps, ContiguousTensors(), [], opts)
        work.wait()

    # Names by which C++ and other releases of torch call the same operations

    recvAnysource = recv_anysource  # noqa: N815
    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced
    alltoall_base = all_to_all_single

    # What torch asks a group about itself

    def getBackendName(self) -> str:  # noqa: N802
        return "mpi"

    def getGroupName(self) -> str:  # noqa: N802
        return self._name

    def setGroupName(self, name: str) -> None:  # noqa: N802
        self._name = name

    def getGroupDesc(self) -> str:  # noqa: N802
        return self._description

    def setGroupDesc(self, description: str) -> None:  # noqa: N802
        self._description = description

    _device_types = (torch.device("cpu"),)
    supports_splitting = True

    def _get_backend(self, device: torch.device) -> MPIProcessGroup:
        return self

    def split_group(  # noqa: PLR0917  # as torch calls it
        self,
        ranks: Sequence[int],
        timeout: timedelta | None = None,
        opts: object | None = None,
        group_name: str | None = None,
        group_desc: str | None = None,
        device_types: object | None = None,
    ) -> MPIProcessGroup | None:
        """Return a group of these ranks of this one; None where this process is none of them."""
        if self._channel.rank not in ranks:
            return None
        members = [self._ranks[rank] for rank in ranks]
        name = group_name or f"{self._name}/{next(self._numbers)}/{members}"
        group = MPIProcessGroup(
            PrefixStore(name, self.get_group_store()),
            members,
            timeout or timedelta(seconds=self._limit),
            name,
            world=self._world,
            progress=self._progress,
        )
        if group_desc is not None:
            group.setGroupDesc(group_desc)
        return group

    def set_timeout(self, timeout: timedelta) -> None:
        self._limit = timeout.total_seconds()

    def shutdown(self) -> None:
        """Give communicators and threads back; called by destroy_process_group on every member."""
        self._callbacks.stop()
        if self._world.fault is None:
            for comm in (self._messages.comm, self._channel.comm):
                self._world.groups.remove(comm)
                comm.Free()
