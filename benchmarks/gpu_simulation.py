"""Images per second of 8 simulated ResNet-20 nodes on one GPU, beside a plain PyTorch loop.

    python benchmarks/gpu_simulation.py [--rounds N] [--block N] [--output FILE.json]

ResNet-20 on 3 x 32 x 32 images that are cropped and mirrored on the GPU, batch 128 a node, float32.
In turn, so that both see the same machine, a block of steps of each:

- plain: 8 models, one after another: the next batch of the same data set, forward, backward,
  torch.optim.SGD's fused step; no communication;
- simulated: 8 nodes of `run.py --backend sim` on a ring, sign-CHOCO: the same and the exchange;
- compiled: the same with `--compile True`.

The figures are images per second, all nodes together, and ratios of a round's block to its plain
one; medians over the rounds.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.nn import functional

from gpu_device import gpu, gpu_name, require_gpu
from harness import keep, spread
from pcode.communication import Communicator, Simulation
from pcode.config import make_config
from pcode.datasets import Batch
from pcode.datasets.base import Order
from pcode.training.node import Node
from pcode.training.plan import Plan
from pcode.training.planning import make_plan

NODES, BATCH_SIZE = 8, 128
DATA = "synthetic:3x32x32:10:50000"
WARM_UP_ROUNDS = 2


def _plan(compiled: bool) -> Plan:
    return make_plan(
        make_config(
            backend="sim",
            on_cuda=True,
            n_mpi_process=NODES,
            data=DATA,
            arch="resnet20",
            batch_size=BATCH_SIZE,
            use_nesterov=True,
            compile=compiled,
        )
    )


def _batches(plan: Plan, rank: int) -> Iterator[Batch]:
    """A node's batches, epoch after epoch."""
    for epoch in itertools.count():
        yield from plan.dataset_on(gpu()).train_batches(
            plan.partition(epoch)[rank], plan.steps_per_epoch, BATCH_SIZE, Order(1, rank, epoch)
        )


def plain_loop(plan: Plan) -> Callable[[], None]:
    """A step of 8 models, one after another."""
    torch.backends.cudnn.deterministic = True  # as simulated nodes have it
    models = [
        plan.model().to(gpu(), memory_format=torch.channels_last)  # type: ignore[call-overload]
        for _ in range(NODES)
    ]
    optimizers = [
        torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True
        )
        for model in models
    ]
    batches = [_batches(plan, rank) for rank in range(NODES)]

    def step() -> None:
        for model, optimizer, source in zip(models, optimizers, batches, strict=True):
            images, targets = next(source)
            images = images.contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return step


def measure(compiled: bool, rounds: int, block: int) -> tuple[list[float], list[float]]:
    """Seconds of a step of all nodes, plain and simulated, by round."""
    plan = _plan(compiled)
    plain = plain_loop(plan)
    found: tuple[list[float], list[float]] = ([], [])

    def clocked(steps: Callable[[], None]) -> float:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        steps()
        torch.cuda.synchronize()
        return (time.perf_counter() - begin) / block

    def simulated(communicator: Communicator) -> None:
        node = Node(plan, communicator)
        first = communicator.rank == 0
        batches = node.batches_ahead()

        def steps() -> None:
            nonlocal batches
            communicator.barrier()
            for _ in range(block):
                if node.optimizer.num_steps % plan.steps_per_epoch == 0:
                    batches = node.batches_ahead()
                node.train_step(batches)
            node.outstanding_losses()
            node.optimizer.finish()
            communicator.barrier()

        def plain_steps() -> None:
            for _ in range(block):
                plain()

        for number in range(rounds + WARM_UP_ROUNDS):
            communicator.barrier()
            reference = clocked(plain_steps) if first else 0.0
            # The clock starts before the barrier: the node that comes last runs on from it.
            taken = clocked(steps)
            if first and number >= WARM_UP_ROUNDS:
                found[0].append(reference)
                found[1].append(taken)

    Simulation(NODES).run(simulated)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--block", type=int, default=20)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    require_gpu()
    images = NODES * BATCH_SIZE
    figures = {}
    print(f"ResNet-20, {NODES} nodes, batch {BATCH_SIZE}, float32, {gpu_name()}\n")
    print("| nodes | plain (images/s) | simulated (images/s) | of plain's time | quartiles |")
    print("|---|---:|---:|---:|---:|")
    for name, compiled in (("simulated", False), ("compiled", True)):
        plain, simulated = measure(compiled, arguments.rounds, arguments.block)
        ratio = spread([one / other for one, other in zip(simulated, plain, strict=True)])
        figures[name] = {"plain_seconds": plain, "seconds": simulated, "ratio": ratio}
        print(
            f"| {name} | {images / spread(plain)['median']:,.0f} "
            f"| {images / spread(simulated)['median']:,.0f} | {ratio['median']:.3f} "
            f"| {ratio['lower_quartile']:.3f} to {ratio['upper_quartile']:.3f} |"
        )
    keep(arguments.output, {"gpu": gpu_name(), "nodes": NODES, "figures": figures})


if __name__ == "__main__":
    main()
