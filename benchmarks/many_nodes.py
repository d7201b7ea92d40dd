"""What simulating many nodes costs: a step of 64 nodes beside 64 plain forward/backward passes.

    python benchmarks/many_nodes.py [--nodes 64] [--rounds N] [--output FILE.json]

ResNet-20 on digits' 1 x 8 x 8 images and on 3 x 32 x 32, batch 32 per node, sign-CHOCO on a ring,
one thread. In turn, so that both see the same machine:

- plain: 64 forward/backward passes, on 64 models of their own, in a plain loop;
- simulated: one step of each of 64 simulated nodes: forward, backward, local step, compression,
  exchange and mixing.

A round is a block of each: some steps in a row, as in training, between two barriers, which are
counted. Its ratio divides their two times; the figure is the median over the rounds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from harness import keep, spread
from pcode.communication import Communicator, Simulation
from pcode.compression import make_compressor
from pcode.models import make_model
from pcode.optim import ParallelChoco
from pcode.topology import make_topology
from pcode.utils.devices import use_memory_well

BATCH_SIZE = 32


def gradient(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    """A plain forward and backward pass."""
    torch.autograd.backward(functional.cross_entropy(model(inputs), targets))


def measure(
    num_nodes: int, rounds: int, shape: tuple[int, int, int], block: int
) -> dict[str, list[float]]:
    """Seconds per step of every round of both kinds; a round is `block` steps of each."""
    inputs, targets = (
        torch.randn(BATCH_SIZE, *shape),
        torch.randint(10, (BATCH_SIZE,)),
    )
    plain_models = [make_model("resnet20", shape, 10, seed=1, flags={}) for _ in range(num_nodes)]
    topology = make_topology("ring", num_nodes)
    seconds: dict[str, list[float]] = {"plain": [], "simulated": []}

    def plain() -> float:
        begin = time.perf_counter()
        for _ in range(block):
            for model in plain_models:
                model.zero_grad()
                gradient(model, inputs, targets)
        return (time.perf_counter() - begin) / block

    def node(communicator: Communicator) -> None:
        model = make_model("resnet20", shape, 10, seed=1, flags={})
        optimizer = ParallelChoco(
            model.parameters(),
            communicator,
            topology,
            compressor=make_compressor("sign"),
            consensus_stepsize=0.45,
            lr=0.01,
            momentum=0.9,
            nesterov=True,
            weight_decay=1e-4,
        )
        for round_number in range(rounds + 2):
            # Between two barriers node 0 alone runs the plain passes, and then all take a step.
            communicator.barrier()
            reference = plain() if communicator.rank == 0 else 0.0
            # The clock starts before the barrier: the node that comes last runs on from it.
            begin = time.perf_counter()
            communicator.barrier()
            for _ in range(block):
                optimizer.zero_grad()
                gradient(model, inputs, targets)
                optimizer.step()
            optimizer.finish()
            communicator.barrier()
            if communicator.rank == 0 and round_number > 1:
                seconds["plain"].append(reference)
                seconds["simulated"].append((time.perf_counter() - begin) / block)

    Simulation(num_nodes).run(node)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    use_memory_well()
    figures = {}
    print("| images | nodes | plain (s) | simulated (s) | ratio | quartiles |")
    print("|---|---:|---:|---:|---:|---:|")
    for shape, block in (((1, 8, 8), 5), ((3, 32, 32), 1)):
        seconds = measure(arguments.nodes, arguments.rounds, shape, block)
        pairs = zip(seconds["simulated"], seconds["plain"], strict=True)
        ratio = spread([simulated / plain for simulated, plain in pairs])
        name = " x ".join(map(str, shape))
        figures[name] = {"seconds": seconds, "ratio": ratio, "block": block}
        print(
            f"| {name} | {arguments.nodes} | {spread(seconds['plain'])['median']:.2f} "
            f"| {spread(seconds['simulated'])['median']:.2f} | {ratio['median']:.3f} "
            f"| {ratio['lower_quartile']:.3f} to {ratio['upper_quartile']:.3f} |"
        )
    keep(arguments.output, {"nodes": arguments.nodes, "figures": figures})


if __name__ == "__main__":
    main()
