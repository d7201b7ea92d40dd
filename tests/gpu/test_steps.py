"""CHOCO-SGD's step on a GPU: what comes out, how often it launches, and that it never waits."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from pcode.communication import Communicator
from pcode.communication.checksums import checksum
from pcode.communication.sim import SimCommunicator, Simulation
from tests.gpu import needs_gpu
from tests.gpu.nodes import COMPRESSORS, Vectors, choco, draw_gradients, parameters, train

pytestmark = needs_gpu

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
STEPS = 8
# Of a node: those of compression and of the local step, its message copied once, and two received.
NUM_LAUNCHES = 20 + 3


def same_bits(one: Vectors, other: Vectors) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


@pytest.fixture(params=COMPRESSORS, ids=lambda case: case[0])
def compressor(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    case: tuple[str, dict[str, Any]] = request.param
    return case


def test_overlapped_and_sequential_give_the_same_bits(
    compressor: tuple[str, dict[str, Any]],
) -> None:
    sequential, overlapped = (
        train([GPU] * 4, STEPS, partial(choco, compressor=compressor, overlap=overlap))
        for overlap in (False, True)
    )
    assert all(map(same_bits, sequential, overlapped))


def test_nodes_on_gpus_and_on_cpus_share_a_run(compressor: tuple[str, dict[str, Any]]) -> None:
    """z_i = sum_j w_ij hat_j - hat_i on every node: they agree on what was sent."""
    mixed = train([CPU, GPU, CPU], STEPS, partial(choco, compressor=compressor))
    mean = sum(node.hat.double() for node in mixed) / 3
    for node in mixed:
        np.testing.assert_allclose(node.z, mean - node.hat, atol=1e-5)


def test_a_gpu_comes_to_what_a_cpu_comes_to() -> None:
    on_gpu, on_cpu = (train([device] * 3, STEPS, choco) for device in (GPU, CPU))
    for one, other in zip(on_gpu, on_cpu, strict=True):
        torch.testing.assert_close(one.x, other.x, rtol=1e-4, atol=1e-4)


class _Alone(SimCommunicator):
    """The only node of a run: nobody to wait for."""

    def __init__(self) -> None:
        super().__init__(Simulation(1), 0)


@pytest.mark.parametrize("num_tensors", [7, 161])
def test_a_step_launches_few_kernels_however_many_tensors(
    compressor: tuple[str, dict[str, Any]], num_tensors: int
) -> None:
    """All that three nodes of a ring put on the GPU for a step: kernels, copies, their messages."""
    shapes = [(100 + index,) for index in range(num_tensors)]

    def node(communicator: Communicator) -> list[str]:
        torch.cuda.set_device(GPU)
        model = parameters(GPU, shapes)
        optimizer = choco(model, communicator, compressor)
        for step in range(3):  # the first ones compile
            draw_gradients(model, communicator.rank, step)
            optimizer.step()
        draw_gradients(model, communicator.rank, 3)
        torch.cuda.synchronize()
        communicator.barrier()
        if communicator.rank > 0:
            optimizer.step()
            communicator.barrier()
            return []
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
            optimizer.step()
            communicator.barrier()
            torch.cuda.synchronize()
        events = profiled.events() or ()
        return [event.name for event in events if event.device_type.name == "CUDA"]

    names = Simulation(3).run(node)[0]
    assert 3 <= len(names) < 3 * NUM_LAUNCHES, names


def test_a_step_never_waits_for_the_gpu(compressor: tuple[str, dict[str, Any]]) -> None:
    model = parameters(GPU)
    optimizer = choco(model, _Alone(), compressor, topology="complete")
    for step in range(3):
        draw_gradients(model, 0, step)
        optimizer.step()
    draw_gradients(model, 0, 3)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    optimizer.finish()
    assert optimizer.x.isfinite().all()


@pytest.mark.parametrize("num_bytes", [1, 90, 3 * 32768 + 5])
def test_a_gpu_and_its_host_come_to_the_same_checksum(num_bytes: int) -> None:
    message = torch.arange(num_bytes, dtype=torch.int32).to(torch.uint8)
    assert int(checksum(message.to(GPU))[0]) == int(checksum(message)[0])
