"""Steps of ResNet-50 on a GPU with CHOCO-SGD's exchange, beside steps without communication.

    python benchmarks/gpu_steps.py [--ranks N [--backend B]] [--rounds N] [--block N] [--batch N]
        [--output FILE.json]

ResNet-50 of torchvision on random 3 x 224 x 224 images, batch 128, bfloat16 by autocast, images in
channels_last, cuDNN's deterministic algorithms. In turn, so that all see the same machine, a block
of steps of each:

- plain: forward, backward, torch.optim.SGD's fused step with Nesterov momentum: no communication;
  its weights are in channels_last too, which those of a flat store are not;
- choco: sign-CHOCO on a ring of 3 whose two neighbours are the node itself: their messages are
  copies of its own, made on a stream of their own; with --ranks N > 1 a ring of so many ranks, over
  nccl or another backend, on the GPUs of this machine in turn;
- per tensor: the same recursion in the style of the original research code, a loop over the 161
  tensors, each with its norm, signs, packing and unpacking by torch's operations.

A ratio divides the time of a block by that of the plain block of the same round; the figures are
medians over the rounds, with quartiles. CUDA events are the clock.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torchvision.models import resnet50

from gpu_device import gpu, gpu_name, require_gpu, timed
from harness import keep, spread, start_ranks
from pcode.communication import Communicator, SimCommunicator, Simulation
from pcode.communication.base import TensorsByPeer, Wait
from pcode.communication.connect import connect, disconnect
from pcode.compression import make_compressor
from pcode.launch.environment import rendezvous_address
from pcode.optim import ParallelChoco
from pcode.topology import make_topology

SIDE, CLASSES = 224, 1000
LR, MOMENTUM, WEIGHT_DECAY, GAMMA = 0.01, 0.9, 1e-4, 0.45
WEIGHT = 1 / 3


class ToItself(SimCommunicator):
    """A node of a ring of 3 whose neighbours send what it sends."""

    def __init__(self) -> None:
        super().__init__(Simulation(3), 1)
        self._stream = torch.cuda.Stream()

    def _exchange(self, outgoing: TensorsByPeer, incoming: TensorsByPeer, step: int | None) -> Wait:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for peer, tensor in incoming.items():
                tensor.copy_(outgoing[peer])
        done = torch.cuda.Event()
        done.record(self._stream)
        return lambda: torch.cuda.current_stream().wait_event(done)

    def barrier(self, step: int | None = None) -> None:
        pass


class PerTensor:
    """CHOCO-SGD as a loop over tensors: the way of the original, in our words.

    Per tensor the difference, its mean magnitude, its signs packed into bytes; then the copies that
    stand for the neighbours', unpacked and added one after another.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._parameters = list(model.parameters())
        self._optimizer = optimizer
        self._hat = [torch.zeros_like(p) for p in self._parameters]
        self._s = [torch.zeros_like(p) for p in self._parameters]
        self._bits = 2 ** torch.arange(8, device=gpu(), dtype=torch.uint8)

    def _packed(self, difference: torch.Tensor) -> torch.Tensor:
        positive = functional.pad((difference.flatten() >= 0).byte(), (0, -difference.numel() % 8))
        return (positive.view(-1, 8) * self._bits).sum(dim=1, dtype=torch.uint8)

    def _unpacked(self, packed: torch.Tensor, norm: torch.Tensor, like: torch.Tensor) -> Any:
        signs = packed[:, None].bitwise_and(self._bits).ne(0).flatten()[: like.numel()]
        return torch.where(signs, norm, -norm).view_as(like)

    @torch.no_grad()
    def step(self) -> None:
        self._optimizer.step()
        messages = []
        for parameter, hat, s in zip(self._parameters, self._hat, self._s, strict=True):
            parameter.add_(s - hat, alpha=GAMMA)
            difference = parameter - hat
            messages.append((self._packed(difference), difference.abs().mean()))
        sent = torch.cat([packed for packed, _ in messages])
        neighbours = [sent.clone(), sent.clone()]
        sizes = [len(packed) for packed, _ in messages]
        received = [neighbour.split(sizes) for neighbour in neighbours]
        for index, (parameter, hat, s) in enumerate(
            zip(self._parameters, self._hat, self._s, strict=True)
        ):
            packed, norm = messages[index]
            own = self._unpacked(packed, norm, parameter)
            hat.add_(own)
            s.add_(own, alpha=WEIGHT)
            for pieces in received:
                s.add_(self._unpacked(pieces[index], norm, parameter), alpha=WEIGHT)


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        model.parameters(),
        lr=LR,
        momentum=MOMENTUM,
        nesterov=True,
        weight_decay=WEIGHT_DECAY,
        fused=True,
    )


def _choco(model: nn.Module, communicator: Communicator) -> ParallelChoco:
    return ParallelChoco(
        model.parameters(),
        communicator,
        make_topology("ring", communicator.size),
        compressor=make_compressor("sign"),
        consensus_stepsize=GAMMA,
        lr=LR,
        momentum=MOMENTUM,
        nesterov=True,
        weight_decay=WEIGHT_DECAY,
    )


def _model() -> nn.Module:
    torch.manual_seed(1)
    model: nn.Module = resnet50().to(gpu())
    return model


def steps_of(batch_size: int, communicator: Communicator) -> dict[str, Callable[[], None]]:
    """A step of each kind; each has a model of its own."""
    images = torch.randn(batch_size, 3, SIDE, SIDE, device=gpu())
    images = images.contiguous(memory_format=torch.channels_last)
    targets = torch.randint(CLASSES, (batch_size,), device=gpu())

    def train(model: nn.Module, forget: Callable[[], None], step: Callable[[], object]) -> None:
        with torch.autocast("cuda", torch.bfloat16):
            outputs = model(images)
        forget()
        functional.cross_entropy(outputs.float(), targets).backward()
        step()

    plain, per_tensor, ours = _model(), _model(), _model()
    for model in (plain, per_tensor):
        model.to(memory_format=torch.channels_last)
    sgd, of_loop, optimizer = _sgd(plain), _sgd(per_tensor), _choco(ours, communicator)
    return {
        "plain": partial(train, plain, sgd.zero_grad, sgd.step),
        "choco": partial(train, ours, optimizer.zero_grad, optimizer.step),
        "per tensor": partial(
            train, per_tensor, of_loop.zero_grad, PerTensor(per_tensor, of_loop).step
        ),
    }


def _join(num_ranks: int, backend: str) -> Communicator:
    """This rank's view of the others, or of itself where it is alone."""
    if num_ranks == 1:
        return ToItself()
    place = start_ranks(num_ranks, __file__, sys.argv[1:])
    return connect(
        backend,
        place.rank,
        place.num_ranks,
        device=torch.device("cuda", place.rank % torch.cuda.device_count()),
        limit_seconds=60.0,
        address=rendezvous_address(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--backend", default="nccl", choices=("nccl", "mpi", "gloo"))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--block", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    require_gpu()
    communicator = _join(arguments.ranks, arguments.backend)
    torch.backends.cudnn.deterministic = True  # for all: a run's nodes ask for it
    steps = steps_of(arguments.batch, communicator)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(arguments.rounds + 2):
        for name, step in steps.items():
            communicator.barrier()
            taken = timed(step, arguments.block) / arguments.block
            if number > 1:
                seconds[name].append(taken)
    if arguments.ranks > 1:
        communicator.barrier()
        disconnect(communicator)
    if arguments.ranks == 1 or communicator.rank == 0:
        report(arguments, seconds)


def report(arguments: argparse.Namespace, seconds: dict[str, list[float]]) -> None:
    """Print the table, and keep the figures."""
    ranks = f"{arguments.ranks} ranks, {arguments.backend}, " if arguments.ranks > 1 else ""
    print(f"ResNet-50, batch {arguments.batch}, bfloat16, {ranks}{gpu_name()}\n")
    print("| step | ms | of plain | quartiles |")
    print("|---|---:|---:|---:|")
    ratios = {}
    for name, times in seconds.items():
        pairs = zip(times, seconds["plain"], strict=True)
        ratios[name] = spread([one / plain for one, plain in pairs])
        print(
            f"| {name} | {1e3 * spread(times)['median']:.2f} | {ratios[name]['median']:.3f} "
            f"| {ratios[name]['lower_quartile']:.3f} to {ratios[name]['upper_quartile']:.3f} |"
        )
    keep(
        arguments.output,
        {
            "gpu": gpu_name(),
            "ranks": arguments.ranks,
            "backend": arguments.backend if arguments.ranks > 1 else None,
            "batch": arguments.batch,
            "block": arguments.block,
            "seconds": seconds,
            "ratios": ratios,
        },
    )


if __name__ == "__main__":
    main()
