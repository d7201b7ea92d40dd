"""Functions that communicate, compiled by torch.compile, do what they do without it.

mpirun -n 2 python -m tests.mpi_backend.compiled COMPILER
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from pcode import mpi_backend
from tests.mpi_backend.training import assert_equal, network, sgd, train

Tensor = torch.Tensor


def reductions(x: Tensor) -> Tensor:
    """Also one that is waited for later, and one whose future is."""
    dist.all_reduce(x)
    dist.reduce(x, 0)
    later: Any = dist.all_reduce(x, async_op=True)
    later.wait()
    future: Any = dist.all_reduce(x, async_op=True)
    scattered = torch.empty(1)
    dist.reduce_scatter_tensor(scattered, future.get_future().wait()[0])
    return scattered


def copies(x: Tensor) -> Tensor:
    """From one to all, from all to one, and from all to all."""
    is_root = dist.get_rank() == 0
    dist.broadcast(x, 0)
    every = [torch.empty_like(x) for _ in range(2)]
    dist.gather(x, every if is_root else None)
    dist.scatter(x, every if is_root else None)
    dist.all_gather(every, x)
    dist.all_to_all(every, [2 * each for each in every])
    whole = torch.empty(4)
    dist.all_gather_into_tensor(whole, every[1])
    dist.barrier()
    return whole


def messages(x: Tensor) -> Tensor:
    """One after the other, at once, and in a batch."""
    other = 1 - dist.get_rank()
    if other:
        dist.send(x, other)
    else:
        dist.recv(x, other)
    got = torch.empty_like(x)
    sent: Any = dist.isend(x, other)
    dist.recv(got, other)
    sent.wait()
    last = torch.empty_like(x)
    both = [dist.P2POp(dist.isend, got, other), dist.P2POp(dist.irecv, last, other)]
    for work in dist.batch_isend_irecv(both):
        work.wait()
    return last


def main(compiler: str) -> None:
    """Run one rank."""
    mpi_backend.init_process_group()
    model = DistributedDataParallel(network())
    compiled: Any = torch.compile(model, backend=compiler)
    train(compiled, sgd(model), share=True)
    assert_equal(model.module.state_dict())
    functions: tuple[Callable[[Tensor], Tensor], ...] = (reductions, copies, messages)
    for function in functions:
        x = torch.full((2,), dist.get_rank() + 1.0)
        expected = function(x.clone())
        quick = torch.compile(function, backend=compiler)
        for _ in range(2):
            assert torch.equal(quick(x.clone()), expected), function.__name__
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
