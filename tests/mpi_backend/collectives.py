"""The collective operations of a backend; see contract."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import ReduceOp

from tests.mpi_backend.contract import (
    COMPLEX,
    COPIED,
    FLOATS,
    HALVES,
    INTEGERS,
    UNSIGNED,
    check,
    each,
    folded,
    mpi_only,
    on_mpi,
    raw,
)


def reduced_dtypes() -> list[tuple[torch.dtype, list[str]]]:
    """What is reduced, and how; gloo has fewer."""
    order = ["SUM", "PRODUCT", "MIN", "MAX"]
    if not on_mpi():
        return [(d, order) for d in (torch.int8, torch.uint8, torch.int32, torch.int64, *FLOATS)]
    bits = ["BAND", "BOR", "BXOR"]
    table = [(dtype, order + bits) for dtype in INTEGERS + UNSIGNED]
    table += [(dtype, order) for dtype in FLOATS]
    return table + [(dtype, ["SUM"]) for dtype in COMPLEX]  # torch refuses other ones


@check
def all_reduce() -> None:
    """Every dtype, operation and shape, the long one in several rounds."""
    rank = dist.get_rank()
    for dtype, names in reduced_dtypes():
        for name in names:
            for shape in ((1,), (7, 5), (0,), (70_001,)):
                inputs = each(shape, dtype)
                expected = folded(name, [tensor.numpy() for tensor in inputs])
                tensor = inputs[rank].clone()
                dist.all_reduce(tensor, getattr(ReduceOp, name))
                assert np.array_equal(tensor.numpy(), expected), (dtype, name, shape)


@mpi_only
def all_reduce_of_bool_and_average() -> None:
    """bool is "or" and "and"; an average is a sum divided."""
    rank = dist.get_rank()
    for name, fold in {"SUM": np.any, "MAX": np.any, "PRODUCT": np.all, "MIN": np.all}.items():
        inputs = each((50,), torch.bool)
        tensor = inputs[rank].clone()
        dist.all_reduce(tensor, getattr(ReduceOp, name))
        assert np.array_equal(tensor.numpy(), fold([i.numpy() for i in inputs], axis=0)), name
    for shape in ((5,), (200_003,)):
        inputs = each(shape, torch.float64)
        tensor = inputs[rank].clone()
        dist.all_reduce(tensor, ReduceOp.AVG)
        expected = np.mean([i.numpy() for i in inputs], axis=0)
        assert np.array_equal(tensor.numpy(), expected), shape


@mpi_only
def average_of_integers_is_rounded_towards_zero() -> None:
    """As NCCL's; also of sums that only unsigned types hold."""
    rank, size = dist.get_rank(), dist.get_world_size()
    for dtype in INTEGERS + UNSIGNED:
        lowest, highest = torch.iinfo(dtype).min, torch.iinfo(dtype).max
        inputs = [[lowest // size + other, highest // size - other, other] for other in range(size)]
        tensor = torch.tensor(inputs[rank], dtype=dtype)
        dist.all_reduce(tensor, ReduceOp.AVG)
        expected = [math.trunc(Fraction(sum(each), size)) for each in zip(*inputs, strict=True)]
        assert tensor.tolist() == expected, dtype


@mpi_only
def half_precision_is_rounded_once() -> None:
    """The wider sum in the order of ranks, then one rounding; also for the average."""
    rank, size = dist.get_rank(), dist.get_world_size()
    for dtype, wide in HALVES.items():
        for count in (1001, 300_001):
            draw = functools.partial(torch.randn, count, dtype=wide)
            generator = torch.Generator().manual_seed(3)
            inputs = [draw(generator=generator).to(dtype) for _ in range(size)]
            total = functools.reduce(np.add, [tensor.to(wide).numpy() for tensor in inputs])
            for op, divisor in ((ReduceOp.SUM, 1), (ReduceOp.AVG, size)):
                expected = torch.from_numpy(total / np.float32(divisor)).to(dtype)
                alike = inputs[rank].clone(), inputs[rank].clone()
                dist.all_reduce(alike[0], op)  # of complex numbers as pairs of real ones
                all_reduce_as_it_is(alike[1], op)
                for tensor in alike:
                    assert raw(tensor) == raw(expected), (dtype, count, op)


def all_reduce_as_it_is(tensor: torch.Tensor, op: ReduceOp.RedOpType) -> None:
    """An all-reduce that the group itself gets with this dtype."""
    group, options = dist.group.WORLD, dist.AllreduceOptions()
    assert group is not None
    options.reduceOp = op
    group.allreduce([tensor], options).wait()


@check
def reduce_to_a_root() -> None:
    """Each root gets the sum; the other ranks' tensors stay."""
    rank = dist.get_rank()
    for root in range(dist.get_world_size()):
        for shape in ((3,), (90_001,)):
            inputs = each(shape, torch.float32)
            tensor = inputs[rank].clone()
            dist.reduce(tensor, root)
            if rank == root:
                expected = folded("SUM", [i.numpy() for i in inputs])
                assert np.array_equal(tensor.numpy(), expected), (root, shape)
            elif on_mpi():  # gloo leaves partial sums there
                assert torch.equal(tensor, inputs[rank]), (root, shape)


@check
def reduce_scatter() -> None:
    """Lists and single tensors, short and in several chunks."""
    rank, size = dist.get_rank(), dist.get_world_size()
    for length in (5, 1_500_000):
        inputs = each((size, length), torch.float32)
        expected = folded("MAX", [i.numpy() for i in inputs])[rank]
        output = torch.empty(length)
        dist.reduce_scatter(output, list(inputs[rank].clone()), ReduceOp.MAX)
        assert np.array_equal(output.numpy(), expected), length
        output = torch.empty(length)
        dist.reduce_scatter_tensor(output, inputs[rank].clone().view(-1), ReduceOp.MAX)
        assert np.array_equal(output.numpy(), expected), length


@check
def copies_of_every_dtype() -> None:
    """broadcast, all_gather, gather, scatter, all_to_all and messages, byte for byte."""
    rank, size = dist.get_rank(), dist.get_world_size()
    plain = [torch.int8, torch.uint8, torch.int32, torch.int64, *FLOATS, torch.float16]
    for dtype in COPIED if on_mpi() else plain:
        inputs = each((size, 3), dtype)
        own = inputs[rank]
        for root in range(size):
            tensor = own.clone()
            dist.broadcast(tensor, root)
            assert raw(tensor) == raw(inputs[root]), (dtype, "broadcast")
            gathered = [torch.empty_like(own) for _ in range(size)] if rank == root else None
            dist.gather(own, gathered, dst=root)
            if gathered is not None:
                assert [raw(t) for t in gathered] == [raw(i) for i in inputs], (dtype, "gather")
            output = torch.empty_like(own[0])
            dist.scatter(output, list(own) if rank == root else None, src=root)
            assert raw(output) == raw(inputs[root][rank]), (dtype, "scatter")
        everything = [torch.empty_like(own) for _ in range(size)]
        dist.all_gather(everything, own)
        assert [raw(t) for t in everything] == [raw(i) for i in inputs], (dtype, "all_gather")
        single = torch.empty((size * size, 3), dtype=dtype)
        dist.all_gather_into_tensor(single, own)
        assert raw(single) == b"".join(raw(i) for i in inputs), (dtype, "all_gather_into_tensor")
        if on_mpi():
            parts = [torch.empty_like(own[0]) for _ in range(size)]
            dist.all_to_all(parts, list(own))
            assert [raw(p) for p in parts] == [raw(i[rank]) for i in inputs], (dtype, "all_to_all")
        exchanged = torch.empty_like(own)
        dist.all_to_all_single(exchanged, own)
        assert raw(exchanged) == b"".join(raw(i[rank]) for i in inputs), (dtype, "to_all_single")
        received = torch.empty_like(own)
        works = [dist.irecv(received, (rank - 1) % size), dist.isend(own, (rank + 1) % size)]
        for work in works:
            assert work is not None
            work.wait()
        assert raw(received) == raw(inputs[(rank - 1) % size]), (dtype, "irecv")


@check
def tensors_that_are_not_contiguous() -> None:
    """Inputs and outputs with strides."""
    rank, size = dist.get_rank(), dist.get_world_size()
    inputs = each((6, 4), torch.float32)
    expected = folded("SUM", [i.t().numpy() for i in inputs])
    tensor = inputs[rank].clone().t()
    assert not tensor.is_contiguous()
    if on_mpi():
        dist.all_reduce(tensor)
        assert np.array_equal(tensor.numpy(), expected)
        tensor = inputs[rank].clone().t()
        dist.broadcast(tensor, 0)
        assert torch.equal(tensor, inputs[0].t())
        wide = torch.zeros(4, 6 * size)
        dist.all_gather(list(wide.split(6, dim=1)), inputs[rank].t())
        assert torch.equal(wide, torch.cat([i.t() for i in inputs], dim=1))
        received = torch.zeros(8, 6)[::2].t()
        work = dist.irecv(received, (rank - 1) % size)
        dist.send(inputs[rank], (rank + 1) % size)
        assert work is not None
        work.wait()
        assert torch.equal(received, inputs[(rank - 1) % size])


@check
def uneven_all_to_all() -> None:
    """all_to_all_single with sizes: rank r sends r + j + 1 rows to rank j."""
    rank, size = dist.get_rank(), dist.get_world_size()
    sizes = [rank + peer + 1 for peer in range(size)]
    tensor = torch.full((sum(sizes), 2), float(rank))
    output = torch.empty(sum(sizes), 2)
    dist.all_to_all_single(output, tensor, sizes, sizes)
    expected = torch.cat([torch.full((rank + peer + 1, 2), float(peer)) for peer in range(size)])
    assert torch.equal(output, expected)
