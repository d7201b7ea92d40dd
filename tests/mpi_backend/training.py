"""Parallel training over a backend equals training alone on all data; see contract."""

from __future__ import annotations

import copy
import tempfile
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import PostLocalSGDOptimizer, ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from tests.mpi_backend.contract import check, mpi_only

STEPS = 4
PER_RANK = 6


def network() -> nn.Module:
    """A small network, the same on every rank."""
    torch.manual_seed(5)
    middle = [nn.Linear(32, 32), nn.Tanh()]
    return nn.Sequential(nn.Linear(12, 32), nn.Tanh(), *middle, nn.Linear(32, 3))


def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All ranks' data of a step."""
    generator = torch.Generator().manual_seed(step)
    count = PER_RANK * dist.get_world_size()
    return torch.randn(count, 12, generator=generator), torch.randn(count, 3, generator=generator)


def own(data: torch.Tensor) -> torch.Tensor:
    """This rank's part."""
    return data.chunk(dist.get_world_size())[dist.get_rank()]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum."""
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, share: bool) -> None:
    """A few steps on this rank's part of the data, or on all of it."""
    for step in range(STEPS):
        inputs, targets = batches(step)
        if share:
            inputs, targets = own(inputs), own(targets)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()


def alone() -> dict[str, torch.Tensor]:
    """The parameters after training on all data without communication."""
    model = network()
    train(model, sgd(model), share=False)
    return model.state_dict()


def assert_equal(found: dict[str, torch.Tensor], rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """The parameters are those of training alone, up to the order of the sums."""
    expected = alone()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        near = torch.allclose(found[name], value, rtol=rtol, atol=atol)
        assert near, (name, found[name] - value)


@check
def distributed_data_parallel() -> None:
    """With one bucket, with many, and with gradients as views of the buckets."""
    for bucket_cap, view in ((25.0, False), (0.001, True)):
        model = DistributedDataParallel(
            network(), bucket_cap_mb=bucket_cap, gradient_as_bucket_view=view
        )
        train(model, sgd(model), share=True)
        assert_equal(model.module.state_dict())


@check
def compressing_hook() -> None:
    """Data-parallel training with gradients that travel as fp16."""
    model = DistributedDataParallel(network(), bucket_cap_mb=0.001)
    model.register_comm_hook(None, default_hooks.fp16_compress_hook)
    train(model, sgd(model), share=True)
    assert_equal(model.module.state_dict(), rtol=1e-2, atol=1e-3)


@mpi_only
def power_sgd_hook() -> None:
    """PowerSGD, whose callbacks wait for further operations (gloo's order of them is random)."""
    model = DistributedDataParallel(network(), bucket_cap_mb=0.001)
    state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=2, start_powerSGD_iter=2)
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    before = copy.deepcopy(model.module.state_dict())
    train(model, sgd(model), share=True)
    after = model.module.state_dict()
    assert all(not torch.equal(after[name], before[name]) for name in before)
    for value in after.values():
        same = value.clone()
        dist.broadcast(same, 0)
        assert torch.equal(same, value)


@check
def fully_sharded() -> None:
    """FSDP2: all-gather of parameters, reduce-scatter of gradients."""
    model = network()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model:  # type: ignore[attr-defined]
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    train(model, sgd(model), share=True)
    whole = {
        name: value.full_tensor() if isinstance(value, DTensor) else value
        for name, value in model.state_dict().items()
    }
    assert_equal(whole)


@check
def fully_sharded_of_the_first_kind() -> None:
    """FSDP1, on CPU."""
    model = FullyShardedDataParallel(network(), device_id=torch.device("cpu"))
    train(model, sgd(model), share=True)
    with FullyShardedDataParallel.summon_full_params(model):
        whole = {
            name.replace("_fsdp_wrapped_module.", ""): value.detach().clone()
            for name, value in model.named_parameters()
        }
    assert_equal(whole)


@check
def checkpoint() -> None:
    """Saved while training goes on, and loaded on rank 0 for all."""
    model = DistributedDataParallel(network())
    train(model, sgd(model), share=True)
    expected = alone()
    with tempfile.TemporaryDirectory() as folder:
        shared = [folder]
        dist.broadcast_object_list(shared, 0)
        saved: Any = async_save(model.module.state_dict(), checkpoint_id=shared[0])
        saved.result()
        found = {name: torch.zeros_like(value) for name, value in expected.items()}
        load(found, checkpoint_id=shared[0])
        dist.barrier()
    assert_equal(found)
    other, on_first = network(), dict[str, Any](found if dist.get_rank() == 0 else {})
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(other, on_first, options=options)
    assert_equal(other.state_dict())


@check
def sharded_optimizer() -> None:
    """ZeroRedundancyOptimizer: each rank updates and broadcasts its part."""
    model = DistributedDataParallel(network())
    optimizer = ZeroRedundancyOptimizer(
        model.parameters(), optimizer_class=torch.optim.SGD, lr=0.1, momentum=0.9
    )
    train(model, optimizer, share=True)
    assert_equal(model.module.state_dict())


@check
def local_sgd() -> None:
    """Averaging of models in every step equals averaging of gradients, without momentum."""

    def plain(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    model, reference = network(), network()
    averager = PeriodicModelAverager(period=1)
    train(model, PostLocalSGDOptimizer(plain(model), averager), share=True)
    train(reference, plain(reference), share=False)
    for value, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
