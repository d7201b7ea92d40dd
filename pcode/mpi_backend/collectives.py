"""The collective operations, made of nonblocking messages between pairs of ranks.

Each is a generator that starts messages, yields them and goes on when they are complete (see
operation). Messages go straight from tensor to tensor: contiguous tensors in host memory are
not copied. That every message belongs to a pair is what lets an error name the silent rank; it
also moves the large tensors of training faster than MPI's own nonblocking collectives (measured
with Open MPI 5.0: all-reduce of 64 MB on two local ranks, four times).
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from mpi4py import MPI
from torch.distributed import ReduceOp

from pcode.mpi_backend.library import is_cuda_aware
from pcode.mpi_backend.operation import Steps, Transfer
from pcode.mpi_backend.reduction import Reduction
from pcode.mpi_backend.work import Callbacks

PIECE_BYTES = 1 << 30  # of a message: counts of MPI end at 2^31 - 1
ONE_ROUND_BYTES = 256 << 10  # received per rank, up to which an all-reduce is one round
CHUNK_BYTES = 4 << 20  # received per rank and stage of a reduction
TAGS = 1 << 20  # a tag for each of the collectives under way at once on one group


class Channel:
    """Messages between the ranks of a group, on a communicator of their own."""

    def __init__(self, comm: MPI.Intracomm, world_ranks: Sequence[int]) -> None:
        self.comm, self._world_ranks = comm, world_ranks  # of the group's members, for errors
        # Of messages between two ranks; reductions compute in host memory.
        self._allows_cuda = is_cuda_aware()
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self._numbers: defaultdict[int, Iterator[int]] = defaultdict(itertools.count)

    def next(self) -> Collective:
        """Return the next collective; its tag is that of all ranks, in the order of the calls."""
        depth = Callbacks.depth()
        return Collective(self, depth * TAGS + next(self._numbers[depth]) % TAGS)

    def move(self, tensor: torch.Tensor, peer: int, tag: int, receiving: bool) -> list[Transfer]:
        """Start sending or receiving a contiguous tensor; a receive may be from MPI.ANY_SOURCE."""
        start = self.comm.Irecv if receiving else self.comm.Isend
        known = None if peer == MPI.ANY_SOURCE else self._world_ranks[peer]
        memory = MPI.buffer.fromaddress(tensor.data_ptr(), tensor.nbytes)
        begins = range(0, tensor.nbytes or 1, PIECE_BYTES)
        pieces = [memory[begin : begin + PIECE_BYTES] for begin in begins]
        return [
            Transfer(start([piece, MPI.BYTE], peer, tag), known, len(piece), receiving)
            for piece in pieces
        ]

    def point_to_point(self, tensor: torch.Tensor, peer: int, tag: int, receiving: bool) -> Steps:
        """Move one message; peer may be MPI.ANY_SOURCE for a receive."""
        contiguous = ContiguousTensors(tensor, allows_cuda=self._allows_cuda)
        yield self.move(contiguous.buffers[0], peer, tag, receiving)
        if receiving:
            contiguous.copy_back()


class Collective:
    """The algorithms, for one operation. All tensors are contiguous."""

    def __init__(self, channel: Channel, tag: int) -> None:
        self._channel, self._tag = channel, tag
        self.rank, self.size = channel.rank, channel.size

    def _exchange(
        self, outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]
    ) -> list[Transfer]:
        """Start sending inputs[peer] to and receiving outputs[peer] from each other rank."""
        transfers: list[Transfer] = []
        # From the successor on, so that not all ranks send to the same one first.
        order = [*range(self.rank + 1, self.size), *range(self.rank)]
        for tensors, receiving in ((outputs, True), (inputs, False)):
            for peer in order:
                if tensors and tensors[peer].numel():
                    transfers += self._channel.move(tensors[peer], peer, self._tag, receiving)
        return transfers

    def all_to_all(self, outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]) -> Steps:
        """outputs[j] of rank i = inputs[i] of rank j; an empty list moves nothing."""
        if outputs and inputs:
            copy(outputs[self.rank].view(-1), inputs[self.rank].view(-1))
        yield self._exchange(outputs, inputs)

    def gather(self, outputs: Sequence[torch.Tensor], tensor: torch.Tensor, root: int) -> Steps:
        """outputs[j] of the root = tensor of rank j."""
        return self.all_to_all(outputs, self._at(root, tensor))

    def scatter(self, output: torch.Tensor, inputs: Sequence[torch.Tensor], root: int) -> Steps:
        """output of rank j = inputs[j] of the root."""
        return self.all_to_all(self._at(root, output), inputs)

    def _at(self, root: int, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return one tensor per rank: this one for the root, empty ones for the others."""
        tensors = [tensor.new_empty(0)] * self.size
        tensors[root] = tensor
        return tensors

    def broadcast(self, tensor: torch.Tensor, root: int) -> Steps:
        """Send the root's tensor to all, along a binomial tree."""
        place = (self.rank - root) % self.size
        # The lowest set bit of a place is the distance to its parent; the root has all above.
        distance = place & -place if place else 1 << (self.size - 1).bit_length()
        if place:
            parent = (place - distance + root) % self.size
            yield self._channel.move(tensor, parent, self._tag, receiving=True)
        children: list[Transfer] = []
        while (distance := distance // 2) > 0:
            if place + distance < self.size:
                child = (place + distance + root) % self.size
                children += self._channel.move(tensor, child, self._tag, receiving=False)
        yield children

    def barrier(self) -> Steps:
        """Move one byte from everyone to everyone."""
        incoming = list(torch.empty(self.size, 1, dtype=torch.uint8))
        outgoing = [torch.zeros(1, dtype=torch.uint8)] * self.size
        yield self._exchange(incoming, outgoing)

    def all_reduce(self, tensor: torch.Tensor, op: ReduceOp) -> Steps:
        """tensor = reduction over the ranks: in one round, or by slices that are gathered."""
        reduction = Reduction(op, tensor.dtype, self.size)
        flat = tensor.view(-1)
        if self.size == 1:
            return
        if flat.nbytes * (self.size - 1) <= ONE_ROUND_BYTES:
            rows = list(torch.empty(self.size, flat.numel(), dtype=flat.dtype))
            yield self._exchange(rows, [flat] * self.size)
            rows[self.rank] = flat
            reduction.reduce(rows, self.rank, flat)
        else:
            slices = list(torch.tensor_split(flat, self.size))
            yield from self.reduce_scatter(slices[self.rank], slices, reduction)
            yield self._exchange(slices, [slices[self.rank]] * self.size)

    def reduce(self, tensor: torch.Tensor, op: ReduceOp, root: int) -> Steps:
        """tensor of the root = reduction over the ranks; the other ranks' are left alone."""
        slices = list(torch.tensor_split(tensor.view(-1), self.size))
        own = slices[self.rank]
        out = own if self.rank == root else torch.empty_like(own)
        yield from self.reduce_scatter(out, slices, Reduction(op, tensor.dtype, self.size))
        yield from self.gather(slices if self.rank == root else [], out, root)

    def reduce_scatter(
        self, output: torch.Tensor, inputs: Sequence[torch.Tensor], reduction: Reduction
    ) -> Steps:
        """output of rank i = reduction over j of inputs[i] of rank j.

        In chunks, so that what has come in is still in the cache when it is reduced and the
        scratch memory stays small. All are 1-D; output may be inputs[rank].
        """
        if self.size == 1:
            copy(output, inputs[0])
            return
        most = max(1, CHUNK_BYTES // (output.element_size() * (self.size - 1)))
        longest = max(tensor.numel() for tensor in inputs)
        # Two sets of scratch rows: the next chunk is under way while one is reduced.
        width = min(most, output.numel())
        scratch = torch.empty(2, self.size, width, dtype=output.dtype)

        def start(begin: int) -> tuple[list[torch.Tensor], list[Transfer]]:
            part = slice(begin, begin + most)
            length = output[part].numel()
            rows = [row[:length] for row in scratch[begin // most % 2]]
            return rows, self._exchange(rows, [tensor[part] for tensor in inputs])

        rows, transfers = start(0)
        for begin in range(0, longest, most):
            yield transfers
            complete = rows
            if begin + most < longest:
                rows, transfers = start(begin + most)
            part = slice(begin, begin + most)
            complete[self.rank] = inputs[self.rank][part]
            if complete[self.rank].numel():
                reduction.reduce(complete, self.rank, output[part])


class ContiguousTensors:
    """Contiguous memory with the tensors' values, to send or receive: their own where it is."""

    def __init__(self, *tensors: torch.Tensor, allows_cuda: bool = False) -> None:
        self.tensors = list(tensors)
        self.buffers = [as_contiguous(tensor, allows_cuda) for tensor in tensors]

    def copy_back(self) -> None:
        """Fill the tensors with what the buffers have received."""
        for tensor, buffer in zip(self.tensors, self.buffers, strict=True):
            if tensor.data_ptr() != buffer.data_ptr():
                copy(tensor.detach(), buffer)


def as_contiguous(tensor: torch.Tensor, allows_cuda: bool = False) -> torch.Tensor:
    """Return the values of a tensor as contiguous memory: its own where it is."""
    is_on_gpu = tensor.device.type == "cuda" and allows_cuda
    if (tensor.device.type != "cpu" and not is_on_gpu) or tensor.layout != torch.strided:
        raise ValueError(
            f"the mpi process group moves dense tensors in host memory; this one is "
            f"{tensor.layout} on {tensor.device}: copy it to the host first"
        )
    return tensor.detach().resolve_conj().resolve_neg().contiguous()


def copy(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy values, also into tensors that require gradients."""
    with torch.inference_mode():
        target.copy_(source)
