"""Messages, groups, threads and futures of a backend; see contract."""

from __future__ import annotations

import threading
import time
import traceback
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from packaging.version import Version
from torch.distributed import ReduceOp

from pcode import mpi_backend
from pcode.mpi_backend.backoff import QUIET
from tests.mpi_backend.contract import check, each, folded, mpi_only
from tests.support.cases import LIMIT


@check
def tags_and_any_source() -> None:
    """Messages by tag in another order than sent, and from whichever rank."""
    rank, size = dist.get_rank(), dist.get_world_size()
    to, come = (rank + 1) % size, (rank - 1) % size
    sent = [dist.isend(torch.tensor([100.0 * tag + rank]), to, tag=tag) for tag in (1, 2, 3)]
    for tag in (3, 1, 2):
        tensor = torch.zeros(1)
        assert dist.recv(tensor, come, tag=tag) == come
        assert tensor.item() == 100.0 * tag + come
    for work in sent:
        assert work is not None
        work.wait()
    dist.barrier()
    if rank == 0:
        seen = set()
        for _ in range(size - 1):
            tensor = torch.zeros(1)
            source = dist.recv(tensor, None, tag=9)
            assert tensor.item() == source
            seen.add(source)
        assert seen == set(range(1, size))
    else:
        dist.send(torch.tensor([float(rank)]), 0, tag=9)
    tensors = [torch.zeros(4), torch.full((4,), float(rank))]
    operations = [dist.P2POp(dist.irecv, tensors[0], come), dist.P2POp(dist.isend, tensors[1], to)]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    assert torch.equal(tensors[0], torch.full((4,), float(come)))


@check
def groups() -> None:
    """Overlapping groups, their own ranks, messages and collectives that do not mix."""
    rank, size = dist.get_rank(), dist.get_world_size()
    members = list(range(size - 1, 0, -1))  # all but rank 0; torch sorts them
    upper = dist.new_group(members, timeout=LIMIT)
    pair = dist.new_group([0, size - 1], timeout=LIMIT)
    everyone = dist.new_group(timeout=LIMIT)
    tensor = torch.tensor([1.0 + rank])
    if rank in members:
        assert isinstance(upper, dist.ProcessGroup)
        assert dist.get_rank(upper) == rank - 1
        dist.all_reduce(tensor, group=upper)
        assert tensor.item() == sum(1.0 + member for member in members)
    if rank in (0, size - 1):
        assert isinstance(pair, dist.ProcessGroup)
        other = size - 1 - rank
        got = torch.zeros(1)
        work = dist.irecv(got, other, group=pair)
        dist.send(torch.tensor([float(rank)]), other, group=pair)
        assert work is not None
        work.wait()
        assert got.item() == other
        dist.broadcast(got, size - 1, group=pair)
        assert got.item() == 0
    assert isinstance(everyone, dist.ProcessGroup)
    dist.barrier(everyone)
    dist.destroy_process_group(everyone)


@mpi_only
def groups_made_by_their_members_alone() -> None:
    """The other ranks need not call new_group, and later groups of all can be made."""
    if dist.get_rank() < 2:
        local = dist.new_group([0, 1], LIMIT, backend="cpu:mpi", use_local_synchronization=True)
        assert isinstance(local, dist.ProcessGroup)
        dist.barrier(local)
    everyone = dist.new_group(timeout=LIMIT)
    assert isinstance(everyone, dist.ProcessGroup)
    dist.barrier(everyone)


@check
def objects() -> None:
    """The collectives of Python objects."""
    rank, size = dist.get_rank(), dist.get_world_size()
    gathered: list[object] = [None] * size
    dist.all_gather_object(gathered, {"rank": rank})
    assert gathered == [{"rank": peer} for peer in range(size)]
    shared: list[object] = [f"from {rank}", rank]
    dist.broadcast_object_list(shared, src=size - 1)
    assert shared == [f"from {size - 1}", size - 1]
    mine: list[object] = [None]
    dist.scatter_object_list(mine, [str(peer) for peer in range(size)] if rank == 0 else None)
    assert mine == [str(rank)]


@check
def two_threads() -> None:
    """Collectives of two groups and messages of a third, in flight from two threads."""
    rank, size = dist.get_rank(), dist.get_world_size()
    several = [dist.new_group(timeout=LIMIT) for _ in range(2)]
    failures: list[str] = []

    def work(index: int) -> None:
        try:
            for turn in range(30):
                count = (10, 100_000)[turn % 2]
                tensor = torch.full((count,), float(rank + index))
                got = torch.zeros(count)
                receiving = dist.irecv(got, (rank - 1) % size, tag=index)
                group = several[index]
                assert isinstance(group, dist.ProcessGroup)
                reducing = dist.all_reduce(tensor, group=group, async_op=True)
                dist.send(torch.full((count,), float(turn)), (rank + 1) % size, tag=index)
                assert receiving is not None
                assert reducing is not None
                receiving.wait()
                reducing.wait()
                assert bool((got == turn).all())
                assert bool((tensor == sum(range(size)) + size * index).all())
        except Exception:  # reported by the check, in the main thread
            failures.append(traceback.format_exc())

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


@check
def futures() -> None:
    """A future is completed without wait(), before and after which callbacks may be added."""
    size = dist.get_world_size()
    work = dist.all_reduce(torch.ones(3), async_op=True)
    assert work is not None
    future = work.get_future()
    assert future.then(lambda done: float(done.value()[0][0])).wait() == size
    assert future.then(lambda done: float(done.value()[0][1])).wait() == size
    work.wait()
    assert work.is_completed()


class Counting:
    """A communicator of MPI whose looks for a message are counted."""

    def __init__(self, comm: Any, enough: int) -> None:
        self.comm, self.left, self.reached = comm, enough, threading.Event()

    def Iprobe(self) -> bool:  # noqa: N802  # MPI's name
        self.left -= 1
        if self.left == 0:
            self.reached.set()
        found: bool = self.comm.Iprobe()
        return found


@mpi_only
def futures_asked_for_while_nobody_waits_for_one() -> None:
    """The helper thread sleeps between its calls of MPI; a future asked for later is completed."""
    progress, rank, looks = mpi_backend.get_runtime().progress, dist.get_rank(), 20
    if rank == 0:
        got, later = torch.zeros(3), torch.zeros(2)
        first = dist.irecv(got, 1, tag=1)
        assert first is not None
        counting = Counting(progress.idle_comm, looks)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(progress, "idle_comm", counting)
            begin = time.perf_counter()
            assert counting.reached.wait(LIMIT.total_seconds())
            assert time.perf_counter() - begin > (looks - 1) * QUIET.shortest / 2
        second = dist.irecv(later, 1, tag=2)
        assert second is not None
        futures = [second.get_future(), first.get_future()]
        dist.send(torch.zeros(1), 1)
        assert torch.equal(futures[0].wait()[0], torch.full((2,), 2.0))
        assert torch.equal(futures[1].wait()[0], torch.ones(3))
    elif rank == 1:
        dist.recv(torch.zeros(1), 0)
        dist.send(torch.full((2,), 2.0), 0, tag=2)
        dist.send(torch.ones(3), 0, tag=1)
    dist.barrier()


@mpi_only
def callbacks_that_communicate() -> None:
    """A callback starts an operation and waits for it, while the program starts others."""
    size = dist.get_world_size()

    def then(future: torch.futures.Future[list[torch.Tensor]]) -> float:
        second = dist.all_reduce(future.value()[0], async_op=True)
        assert second is not None
        return float(second.get_future().wait()[0][0])

    for count in (1, 0, 30_000, 5) * 5:  # the empty ones are complete at once on some ranks
        works = [dist.all_reduce(torch.ones(count + 1), async_op=True) for _ in range(3)]
        results = [work.get_future().then(then) for work in works if work is not None]
        assert [result.wait() for result in results] == [size * size] * 3


@mpi_only
def refusals() -> None:
    """What cannot be done is refused with its reason, on every rank alike."""
    for tensor, op, pattern in [
        (torch.ones(2, dtype=torch.bool), ReduceOp.AVG, "AVG .* torch.bool"),
        (torch.ones(2), ReduceOp.BXOR, "BXOR .* torch.float32"),
        (torch.ones(2, device="meta"), ReduceOp.SUM, "on meta: copy it to the host"),
    ]:
        with pytest.raises(ValueError, match=pattern):
            dist.all_reduce(tensor, op)


@check
def profiler_events() -> None:
    """Each operation is an asynchronous event of the backend's, with its tensors' shapes."""
    rank, size, name = dist.get_rank(), dist.get_world_size(), dist.get_backend()
    with torch.profiler.profile(record_shapes=True) as profiler:
        dist.all_reduce(torch.ones(2, 3))
        dist.broadcast(torch.ones(4), 0)
        work = dist.all_gather([torch.ones(5)] * size, torch.ones(5), async_op=True)
        assert work is not None
        work.wait()
        if rank == 0:
            dist.send(torch.ones(6), 1)
        elif rank == 1:
            dist.recv(torch.ones(6))
    dist.barrier()
    expected = {":all_reduce": [[2, 3]], ":broadcast": [[4]], ":all_gather": [[5]]}
    if rank < 2:
        expected[(":send", ":recvAnySource")[rank]] = [[6]]
    found = {event.name: event for event in profiler.events() if event.name.startswith(f"{name}:")}
    assert {f"{name}{kind}" for kind in expected} == found.keys()
    for kind, shapes in expected.items():
        assert found[f"{name}{kind}"].is_async, kind
        assert found[f"{name}{kind}"].input_shapes == shapes, kind


@mpi_only
def profiled_operations_wait_for_themselves_alone() -> None:
    """Not for callbacks of those before, nor for those that have ended later."""
    rank, has_passed = dist.get_rank(), threading.Event()
    with torch.profiler.profile():
        first = dist.all_reduce(torch.ones(1), async_op=True)
        assert first is not None
        seen = first.get_future().then(lambda _: has_passed.wait(LIMIT.total_seconds()))
        dist.all_reduce(torch.ones(1))
        has_passed.set()
        assert seen.wait()
        if rank == 0:
            received = dist.irecv(torch.ones(1), 1, tag=1)
            assert received is not None
            dist.send(torch.ones(1), 1, tag=2)
            dist.send(torch.ones(1), 1, tag=3)
            received.wait()
        elif rank == 1:
            dist.recv(torch.ones(1), 0, tag=2)
            dist.recv(torch.ones(1), 0, tag=3)
            dist.send(torch.ones(1), 0, tag=1)
    dist.barrier()


@check
def groups_for_the_cpu() -> None:
    """torch finds that a group is one for the CPU, splits it, and watches a barrier."""
    rank, size = dist.get_rank(), dist.get_world_size()
    parent: Any = dist.new_group()
    assert torch.device("cpu") in parent._device_types
    parent.monitored_barrier(LIMIT)
    if Version(torch.__version__) >= Version("2.14"):  # before, these were for gloo and CUDA alone
        dist.monitored_barrier(parent, LIMIT, wait_all_ranks=True)
        pairs = [[1, 0], *([other] for other in range(2, size))]
        part = dist.split_group(parent, pairs, group_desc="pair")
        assert isinstance(part, dist.ProcessGroup)
        assert part.group_desc == "pair"
        assert (part.size(), part.rank()) == ((2, 1 - rank) if rank < 2 else (1, 0))
        total = torch.tensor(float(rank))
        dist.all_reduce(total, group=part)
        assert total == (1 if rank < 2 else rank)
        dist.destroy_process_group(part)
    dist.destroy_process_group(parent)


@mpi_only
def groups_leave_no_thread() -> None:
    """Those of callbacks end with their groups."""
    before, size = set(threading.enumerate()), dist.get_world_size()
    for _ in range(5):
        groups: list[Any] = [dist.new_group() for _ in range(3)]
        for group in groups:
            work = dist.all_reduce(torch.ones(1), group=group, async_op=True)
            assert work is not None
            work.get_future().then(lambda future: future.value()).wait()
        late = dist.all_reduce(torch.ones(1), group=groups[0], async_op=True)
        assert late is not None
        late.wait()
        for group in groups:
            dist.destroy_process_group(group)
        assert late.get_future().then(lambda future: future.value()[0] == size).wait()
    for thread in set(threading.enumerate()) - before:
        thread.join(LIMIT.total_seconds())
        assert not thread.is_alive(), thread


@mpi_only
def messages_in_pieces() -> None:
    """Messages longer than MPI's counts go in pieces (here of 1000 bytes)."""
    from pcode.mpi_backend import collectives  # noqa: PLC0415  # initializes MPI

    rank, size = dist.get_rank(), dist.get_world_size()
    whole = collectives.PIECE_BYTES
    dist.barrier()
    collectives.PIECE_BYTES = 1000
    try:
        inputs = each((10_007,), torch.float32)
        got = torch.zeros(10_007)
        work = dist.irecv(got, (rank - 1) % size)
        dist.send(inputs[rank], (rank + 1) % size)
        assert work is not None
        work.wait()
        assert torch.equal(got, inputs[(rank - 1) % size])
        tensor = inputs[rank].clone()
        dist.all_reduce(tensor)
        assert np.array_equal(tensor.numpy(), folded("SUM", [i.numpy() for i in inputs]))
    finally:
        dist.barrier()
        collectives.PIECE_BYTES = whole
