"""How many bits the signs of CHOCO's messages hold, given what sender and receiver know.

    python benchmarks/sign_entropy.py [--arch resnet20] [--steps N]

Four simulated nodes train on digits. Of the messages of some steps the entropy of a sign is
estimated from counts: alone; given the signs of the same entry in the messages before; given that
of the entry before it. An ideal coder of that context sends as many bits; one bit is what is sent.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from numpy.typing import NDArray

from pcode.communication import Communicator, Simulation
from pcode.compression import make_compressor
from pcode.datasets import load_dataset
from pcode.models import make_model
from pcode.optim import ParallelChoco
from pcode.topology import make_topology
from peers import LOCAL

NUM_NODES, BATCH_SIZE, DEPTH = 4, 32, 8
Bits = NDArray[np.uint8]


def entropy(bits: Bits, context: NDArray[np.int64]) -> float:
    """Bits a sign, given a context, by the counts of each."""
    size = int(context.max()) + 1
    ones = np.bincount(context, bits, size)
    totals = np.bincount(context, minlength=size)
    share = np.clip(ones / np.maximum(totals, 1), 1e-12, 1 - 1e-12)
    each = -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    return float((totals * each).sum() / len(bits))


def signs_of_run(arch: str, num_steps: int, lr: float) -> list[Bits]:
    """The signs of node 0's messages, step by step."""
    digits = load_dataset("digits", {})
    topology = make_topology("ring", NUM_NODES)

    def node(communicator: Communicator) -> list[Bits]:
        model = make_model(arch, (1, 8, 8), 10, seed=1, flags={})
        optimizer = ParallelChoco(
            model.parameters(),
            communicator,
            topology,
            compressor=make_compressor("sign"),
            consensus_stepsize=0.45,
            lr=lr,
            **LOCAL,
        )
        draw = torch.Generator().manual_seed(communicator.rank)
        found: list[Bits] = []
        for _ in range(num_steps):
            rows = torch.randint(len(digits.train_targets), (BATCH_SIZE,), generator=draw)
            ((inputs, targets),) = digits.read([rows], [0])
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), targets).backward()
            before = optimizer.hat.clone()
            optimizer.step()
            optimizer.finish()
            found.append((optimizer.hat < before).numpy().astype(np.uint8))
        return found

    return Simulation(NUM_NODES).run(node)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="resnet20")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=0.1)
    arguments = parser.parse_args()
    signs = signs_of_run(arguments.arch, arguments.steps, arguments.lr)
    print(
        "| step | alone | "
        + " | ".join(f"{n} before" for n in range(1, DEPTH + 1))
        + " | neighbour |"
    )
    for step in range(DEPTH, arguments.steps, max(1, arguments.steps // 10)):
        bits = signs[step]
        context = np.zeros(len(bits), dtype=np.int64)
        row = [entropy(bits, context)]
        for before in range(1, DEPTH + 1):
            context = 2 * context + signs[step - before]
            row.append(entropy(bits, context))
        row.append(entropy(bits[1:], bits[:-1].astype(np.int64)))
        print(f"| {step} | " + " | ".join(f"{value:.3f}" for value in row) + " |")


if __name__ == "__main__":
    main()
