"""What communication costs: a CHOCO step beside the same step without communication.

    python benchmarks/overlap.py [--nodes 2] [--arch resnet20] [--rounds N] [--output FILE.json]

A model on 3 x 32 x 32 random images, sign, one thread per rank; starts itself under mpirun, all
ranks on this machine. These kinds of step are timed in turn, a block of each per round, so that all
see the same machine:

- none: PyTorch's own loop with torch.optim.SGD (fused): no communication;
- sign: `parallel_choco`, its exchange hidden behind the next gradient;
- sign_in_step: the same with overlap off;
- d_psgd: whole parameters, exchanged in the step;
- sign_unchecked and d_psgd_unchecked: as those, without checksums of the messages.

All ranks take the same kind at the same time: all cores are busy in each. A block's time is the
mean over the ranks of its seconds per step; a round's ratio divides by the block without
communication of the same round. The figure is the median over the rounds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from harness import keep, spread, start_ranks
from pcode import mpi_backend
from pcode.communication import DistributedCommunicator
from pcode.communication.checksums import EdgeChecksums
from pcode.utils.devices import use_memory_well
from peers import PEERS, mean_of, random_batch, time_steps

# The method of each kind of step, and whether checksums of its messages are kept, as by default.
KINDS = {
    "none": ("none", False),
    "sign": ("sign", True),
    "sign_unchecked": ("sign", False),
    "sign_in_step": ("sign_in_step", True),
    "d_psgd": ("d_psgd", True),
    "d_psgd_unchecked": ("d_psgd", False),
}


def measure(arguments: argparse.Namespace) -> None:
    """One rank's part; rank 0 prints and keeps the figures."""
    torch.set_num_threads(1)
    use_memory_well()
    mpi_backend.init_process_group()
    node = DistributedCommunicator()
    peers = dict.fromkeys(peer for peer, _ in KINDS.values())
    methods = {peer: PEERS[peer].make(arguments.arch, 0.01, node) for peer in peers}
    batch = random_batch(arguments.batch_size, seed=node.rank)
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for round_number in range(arguments.rounds + 1):
        for kind, (peer, is_checked) in KINDS.items():
            node.checksums = EdgeChecksums() if is_checked else None
            row = mean_of(time_steps(methods[peer], batch, arguments.block, node))
            if round_number:  # the first compiles kernels and fills caches
                seconds[kind].append(row["total"])
    if node.rank == 0:
        report(seconds, node.size, arguments)
    node.barrier()
    torch.distributed.destroy_process_group()


def report(seconds: dict[str, list[float]], num_nodes: int, arguments: argparse.Namespace) -> None:
    """The table, and the JSON file."""
    print("| step | ms | times the step without communication | quartiles |")
    print("|---|---:|---:|---:|")
    ratios = {}
    for kind, values in seconds.items():
        pairs = zip(values, seconds["none"], strict=True)
        ratio = ratios[kind] = spread([value / alone for value, alone in pairs])
        print(
            f"| {kind} | {1e3 * spread(values)['median']:.1f} | {ratio['median']:.3f} "
            f"| {ratio['lower_quartile']:.3f} to {ratio['upper_quartile']:.3f} |"
        )
    figures = {"nodes": num_nodes, "arch": arguments.arch, "batch_size": arguments.batch_size}
    keep(arguments.output, {**figures, "seconds": seconds, "ratios": ratios})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--arch", default="resnet20")
    parser.add_argument("--batch_size", type=int, default=32, help="of a rank")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--block", type=int, default=10, help="steps of a kind in a round")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    start_ranks(arguments.nodes, __file__, sys.argv[1:])
    measure(arguments)


if __name__ == "__main__":
    main()
