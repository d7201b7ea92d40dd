"""Simulated nodes of CHOCO-SGD on devices, with gradients that are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pcode.communication import Communicator, Simulation
from pcode.compression import make_compressor
from pcode.optim import ParallelChoco
from pcode.topology import make_topology
from pcode.utils.seeding import derive_seed

COMPRESSORS: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("sign", {}),
    ("compress_top_k", {"compress_ratio": 0.9}),
    ("compress_random_k", {"compress_ratio": 0.9}),
    ("quantize_qsgd", {"quantize_level": 8}),
]
SHAPES = [(64, 32), (64,), (5000,), (3, 7), (1,), (128, 64), (128,)]


@dataclass(frozen=True)
class Vectors:
    """A node's, at the end, in host memory."""

    x: torch.Tensor
    hat: torch.Tensor
    z: torch.Tensor


def parameters(device: torch.device, shapes: Sequence[tuple[int, ...]] = SHAPES) -> nn.Module:
    """A model with tensors of these shapes, the same on every device."""
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    return nn.ParameterList(nn.Parameter(tensor.to(device)) for tensor in tensors)


def draw_gradients(model: nn.Module, rank: int, step: int) -> None:
    """The same on every device."""
    generator = torch.Generator().manual_seed(derive_seed(1, "gradient", rank, step))
    for parameter in model.parameters():
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = gradient.to(parameter.device)


def choco(
    model: nn.Module,
    communicator: Communicator,
    compressor: tuple[str, dict[str, Any]] = ("sign", {}),
    *,
    overlap: bool = True,
    topology: str = "ring",
) -> ParallelChoco:
    return ParallelChoco(
        model.parameters(),
        communicator,
        make_topology(topology, communicator.size),
        compressor=make_compressor(compressor[0], **compressor[1]),
        consensus_stepsize=0.1,
        lr=0.01,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
        overlap=overlap,
    )


def train(
    devices: Sequence[torch.device],
    num_steps: int,
    optimizer_of: Callable[[nn.Module, Communicator], ParallelChoco],
) -> list[Vectors]:
    """Some steps of a node on each of the devices."""

    def node(communicator: Communicator) -> Vectors:
        device = devices[communicator.rank]
        if device.type == "cuda":
            torch.cuda.set_device(device)
        model = parameters(device)
        optimizer = optimizer_of(model, communicator)
        for step in range(num_steps):
            draw_gradients(model, communicator.rank, step)
            optimizer.step()
        optimizer.finish()
        return Vectors(optimizer.x.cpu(), optimizer.hat.cpu(), optimizer.z.cpu())

    return Simulation(len(devices)).run(node)
