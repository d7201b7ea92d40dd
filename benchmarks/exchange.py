"""Exchange of a tensor between two ranks of this machine, over mpi and over gloo.

    python benchmarks/exchange.py [--output FILE.json] [--repeats N] [--largest BYTES]

Starts itself on two ranks, once per backend. What is timed, on rank 0, with warm buffers, each
repeat after a barrier, and reported as the median:

- exchange: irecv and isend of the same size to and from the other rank, until both are through.
- copy, both: `Tensor.copy_` of the same bytes while the other rank does the same. Two ranks that
  exchange move as many bytes at once, so that this is what an exchange is measured against
  (medians of the same process and run, repeats of the two alternating).
- copy, alone: the same while the other rank sleeps in a barrier.

Small sizes are timed in bundles (`inner` operations between two readings of the clock), because
one copy of 1 KiB takes less than the reading. The numbers of threads are 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from harness import keep, run_ranks
from pcode import mpi_backend

SIZES = [4**exponent for exponent in range(5, 14)]  # 1 KiB to 64 MiB
TIMEOUT = timedelta(seconds=60)


def main() -> None:
    """Parse, and be the launcher or a rank."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="bytes")
    parser.add_argument("--rank-of", choices=("mpi", "gloo"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank_of:
        measure(arguments.rank_of, arguments.output, arguments.repeats, arguments.largest)
        return
    figures = {backend: measured(backend, arguments) for backend in ("mpi", "gloo")}
    print(table(figures))
    keep(arguments.output, {"repeats": arguments.repeats, "figures": figures})


def measured(backend: str, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Run this file on two ranks and return rank 0's figures."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "figures.json"
        flags = ["--rank-of", backend, "--output", str(output)]
        flags += ["--repeats", str(arguments.repeats), "--largest", str(arguments.largest)]
        status = run_ranks(2, __file__, flags)
        if status:
            sys.exit(status)
        figures: list[dict[str, float]] = json.loads(output.read_text(encoding="utf-8"))
        return figures


def measure(backend: str, output: Path, repeats: int, largest: int) -> None:
    """One rank's part; rank 0 writes the figures."""
    torch.set_num_threads(1)
    group = start(backend)
    rank = dist.get_rank()
    figures = []
    for size in (size for size in SIZES if size <= largest):
        outgoing = torch.full((size,), rank, dtype=torch.uint8)
        incoming = torch.zeros(size, dtype=torch.uint8)
        target = torch.zeros(size, dtype=torch.uint8)

        def exchange(outgoing: torch.Tensor = outgoing, incoming: torch.Tensor = incoming) -> None:
            works = [dist.irecv(incoming, 1 - rank, group), dist.isend(outgoing, 1 - rank, group)]
            for work in works:
                assert work is not None
                work.wait()

        def copy(target: torch.Tensor = target, outgoing: torch.Tensor = outgoing) -> None:
            target.copy_(outgoing)

        inner = max(1, min(100, (1 << 20) // size))
        exchanges, copies, alone = [], [], []
        for repeat in range(repeats + 2):
            warm = repeat >= 2
            exchanges.append(timed(exchange, inner, group)) if warm else exchange()
            copies.append(timed(copy, inner, group)) if warm else copy()
            dist.barrier(group)
            if rank == 0:
                alone.append(timed(copy, inner, None))
            dist.barrier(group)
        assert int(incoming.min()) == int(incoming.max()) == 1 - rank
        figures.append(
            {
                "bytes": size,
                "exchange_seconds": statistics.median(exchanges),
                "copy_both_seconds": statistics.median(copies),
                "copy_alone_seconds": statistics.median(alone) if alone else 0.0,
            }
        )
    if rank == 0:
        output.write_text(json.dumps(figures), encoding="utf-8")
    dist.destroy_process_group()


def start(backend: str) -> Any:
    """Initialize torch.distributed on the ranks that mpirun has started; the group to measure."""
    mpi_backend.init_process_group(TIMEOUT)
    return dist.group.WORLD if backend == "mpi" else dist.new_group(backend=backend)


def timed(function: Callable[[], None], inner: int, group: Any) -> float:
    """Seconds per call, started on both ranks at once if a group is given."""
    if group is not None:
        dist.barrier(group)
    begin = time.perf_counter()
    for _ in range(inner):
        function()
    return (time.perf_counter() - begin) / inner


def table(figures: dict[str, list[dict[str, float]]]) -> str:
    """The figures in Markdown; times in microseconds, ratios to the copy on both ranks."""
    lines = [
        "| bytes | mpi (us) | gloo (us) | copy, both (us) | copy, alone (us) "
        "| mpi : copy | gloo : copy | gloo : mpi |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for mpi, gloo in zip(figures["mpi"], figures["gloo"], strict=True):
        ours, theirs = mpi["exchange_seconds"], gloo["exchange_seconds"]
        copy, alone = mpi["copy_both_seconds"], mpi["copy_alone_seconds"]
        lines.append(
            f"| {int(mpi['bytes']):,} | {ours * 1e6:,.1f} | {theirs * 1e6:,.1f} "
            f"| {copy * 1e6:,.1f} | {alone * 1e6:,.1f} | {ours / copy:.2f} "
            f"| {theirs / gloo['copy_both_seconds']:.2f} | {theirs / ours:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
