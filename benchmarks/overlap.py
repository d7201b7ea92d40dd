"""What communication costs: an overlapped CHOCO step beside the same step without communication.

    python benchmarks/overlap.py [--nodes 2] [--image_size 32] [--rounds N] [--output FILE.json]

ResNet-20 on 3 x 32 x 32 random images, batch 32 per rank, sign, one thread per rank; starts itself
under mpirun. Three kinds of step are timed in turn, a block of each per round, so that all see the
same machine:

- local: forward, backward and the local step of SGD with momentum: no communication;
- overlapped: the same with `parallel_choco`, exchange hidden behind the gradient;
- sequential: the same with overlap off.

All ranks take the same kind at the same time: both cores are busy in each. A block's time is the
mean over the ranks of its seconds per step; a round's ratio divides by the local block of the
same round. The figure is the median over the rounds.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from harness import keep, spread, start_ranks
from pcode.communication import Communicator, DistributedCommunicator, mpi
from pcode.compression import make_compressor
from pcode.memory import use_memory_well
from pcode.models import make_model
from pcode.optim import Law, ParallelChoco
from pcode.topology import make_topology

BATCH_SIZE = 32
LOCAL: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}


class LocalSGD(Law):
    """The local step alone."""

    def _recursion(self) -> None:
        self.local_step()


class Step:
    """A model and a law of its own, and the training step on them."""

    def __init__(self, kind: str, communicator: Communicator, image_size: int) -> None:
        self.model = make_model("resnet20", (3, image_size, image_size), 10, seed=1, flags={})
        topology = make_topology("ring", communicator.num_nodes)
        if kind == "local":
            self.law: Law = LocalSGD(self.model.parameters(), communicator, topology, **LOCAL)
        else:
            self.law = ParallelChoco(
                self.model.parameters(),
                communicator,
                topology,
                compressor=make_compressor("sign"),
                consensus_stepsize=0.45,
                overlap=kind == "overlapped",
                **LOCAL,
            )
        self.inputs = torch.randn(BATCH_SIZE, 3, image_size, image_size)
        self.targets = torch.randint(10, (BATCH_SIZE,))

    def __call__(self) -> None:
        loss = functional.cross_entropy(self.model(self.inputs), self.targets)
        self.law.zero_grad()
        torch.autograd.backward(loss)
        self.law.step()


def measure(rounds: int, block: int, image_size: int, output: Path | None) -> None:
    """One rank's part; rank 0 prints and keeps the figures."""
    torch.set_num_threads(1)
    use_memory_well()
    mpi.init_process_group()
    communicator = DistributedCommunicator()
    kinds = ("local", "overlapped", "sequential")
    steps = {kind: Step(kind, communicator, image_size) for kind in kinds}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for round_number in range(rounds + 1):
        for kind, step in steps.items():
            communicator.barrier()
            begin = time.perf_counter()
            for _ in range(block):
                step()
            step.law.finish()
            mine = torch.tensor([(time.perf_counter() - begin) / block], dtype=torch.float64)
            communicator.all_reduce_mean(mine)
            if round_number:  # the first compiles kernels and fills caches
                seconds[kind].append(float(mine))
    if communicator.rank == 0:
        report(seconds, communicator.num_nodes, output)
    communicator.barrier()
    torch.distributed.destroy_process_group()


def report(seconds: dict[str, list[float]], num_nodes: int, output: Path | None) -> None:
    """The table, and the JSON file."""
    print("| step | ms | times the local step | quartiles |")
    print("|---|---:|---:|---:|")
    ratios = {}
    for kind, values in seconds.items():
        pairs = zip(values, seconds["local"], strict=True)
        ratio = ratios[kind] = spread([value / local for value, local in pairs])
        print(
            f"| {kind} | {1e3 * spread(values)['median']:.1f} | {ratio['median']:.3f} "
            f"| {ratio['lower_quartile']:.3f} to {ratio['upper_quartile']:.3f} |"
        )
    keep(output, {"nodes": num_nodes, "seconds": seconds, "ratios": ratios})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--block", type=int, default=10, help="steps of a kind in a round")
    parser.add_argument("--image_size", type=int, default=32, help="pixels")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    start_ranks(arguments.nodes, __file__, sys.argv[1:])
    measure(arguments.rounds, arguments.block, arguments.image_size, arguments.output)


if __name__ == "__main__":
    main()
