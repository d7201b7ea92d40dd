"""Time compressors on CPU threads, in multiples of a copy of the vector by one thread.

    python benchmarks/kernels.py [--threads N ...] [--repeats N] [--output PATH]

The vector has the layout of ResNet-50: 25,557,032 float32 in 161 tensors. What is timed is what a
node does in a step besides sending:

- copy: one warm buffer of the vector's size into another (`torch.Tensor.copy_`), the unit, always
  on one thread;
- encode: the message of value - reference;
- accumulate: the own message into hat with weight 1 and into s with weight 1/3, and the message of
  one neighbour into s with weight 1/3;
- path: encode, then accumulate;
- fused step: what a step of CHOCO-SGD on a ring does, where one pass can: own message and two
  others' into hat and z, SGD with momentum, mixing, and the next message;
- sgd: a step with momentum alone, torch's fused one over a flat vector;
- PowerGossip: a whole step of two edges, messages and SGD with momentum, but for what is sent;
- PowerSGD: what its hook for DistributedDataParallel does with the gradients, on one node, without
  SGD's step.

Compressors are called through their interface, all once before anything is timed (which compiles),
then in turn, N rounds; a multiple divides by the copy of its own round. Tables give the median
and, in brackets, the smallest and the largest, for each number of threads; the rounds of one
number follow those of another.

Bytes are the fewest that a dense pass reads and writes, for each entry of the vector: at the copy's
bytes per second (8 for each entry) they take the multiple in the last column. Less than that is
possible, because a copy's stores also fetch the lines that they overwrite, and because random-k
reads only what it selects.

The table goes to stdout; with --output all times go to a JSON file.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel
from torchvision.models import resnet50

from harness import keep, processor_name
from pcode.communication.base import NoCommunicator
from pcode.compression import Compressor, Message, make_compressor
from pcode.optim import PowerGossip
from pcode.optim.fused import FUSED_STEPS
from pcode.optim.sgd_update import SGDUpdate
from pcode.topology import make_topology
from pcode.utils.devices import use_memory_well
from pcode.utils.layout import Layout

COPY_BYTES = 8.0
CASES: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("none", "none", {}),
    ("sign", "sign", {}),
    ("top-k .99", "compress_top_k", {"compress_ratio": 0.99}),
    ("random-k .99", "compress_random_k", {"compress_ratio": 0.99}),
    ("qsgd 4", "quantize_qsgd", {"quantize_level": 4}),
    ("qsgd 8", "quantize_qsgd", {"quantize_level": 8}),
)
WEIGHTS = ((1.0, 0.0), (1 / 3, 1 / 3))
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 1e-4
RANKS = (1, 4)


def resnet50_layout() -> Layout:
    with torch.device("meta"):
        return Layout.of(resnet50().named_parameters())


class Parts:
    """What is timed, by name, and the bytes that each has to touch for each entry."""

    def __init__(self, layout: Layout) -> None:
        vectors = [torch.randn(layout.num_entries) for _ in range(2)]
        copied = torch.empty(layout.num_entries)
        self.runs: dict[str, Callable[[], object]] = {"copy": lambda: copied.copy_(vectors[0])}
        self.bytes: dict[str, float] = {"copy": COPY_BYTES}
        self._add_sgd(vectors[0])
        for rank in RANKS:
            self._add_power_gossip(rank)
            self._add_power_sgd(rank)
        for label, name, options in CASES:
            compressor = make_compressor(name, **options)
            self._add(layout, label, compressor, *vectors)
            if type(compressor) in FUSED_STEPS:
                self._add_fused_step(layout, label, compressor, *vectors)

    def _add(
        self,
        layout: Layout,
        label: str,
        compressor: Compressor,
        value: torch.Tensor,
        reference: torch.Tensor,
    ) -> None:
        num_bytes = compressor.message_bytes(layout)
        own, neighbour = (
            Message(torch.zeros(num_bytes, dtype=torch.uint8), key) for key in range(2)
        )
        compressor.encode(layout, reference, value, neighbour)
        hat, s = torch.zeros(layout.num_entries), torch.zeros(layout.num_entries)

        def encode() -> None:
            compressor.encode(layout, value, reference, own)

        def accumulate() -> None:
            compressor.accumulate(layout, (own, neighbour), (hat, s), WEIGHTS)

        def path() -> None:
            encode()
            accumulate()

        message = num_bytes / layout.num_entries
        parts: tuple[tuple[Callable[[], None], float], ...] = (
            (encode, 4 + 4 + message),
            (accumulate, 2 * (4 + 4) + 2 * message),
            (path, 24 + 3 * message),
        )
        for run, touched in parts:
            self.runs[f"{label}: {run.__name__}"] = run
            self.bytes[f"{label}: {run.__name__}"] = touched

    def _add_sgd(self, start: torch.Tensor) -> None:
        parameter = torch.nn.Parameter(start.clone())
        parameter.grad = torch.full_like(start, 1e-3)
        sgd = torch.optim.SGD(
            [parameter], LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, fused=True
        )
        self.runs["sgd"], self.bytes["sgd"] = sgd.step, 5 * 4

    def _add_power_gossip(self, rank: int) -> None:
        parameters = [*resnet50().parameters()]
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 1e-3)
        optimizer = PowerGossip(
            parameters,
            NoCommunicator(0, 4),
            make_topology("ring", 4),
            lr=LEARNING_RATE,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            gossip_rank=rank,
        )
        self.runs[f"PowerGossip {rank}"] = optimizer.step
        self.bytes[f"PowerGossip {rank}"] = 5 * 4

    def _add_power_sgd(self, rank: int) -> None:
        if not dist.is_initialized():
            dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
        # All gradients in one bucket, all-reduced whole in the first two steps.
        model = DistributedDataParallel(
            resnet50(), bucket_cap_mb=1000, gradient_as_bucket_view=True
        )
        state = PowerSGDState(None, matrix_approximation_rank=rank, start_powerSGD_iter=2)
        seconds = [0.0]

        def timed(bucket: Any) -> torch.futures.Future[torch.Tensor]:
            begin = time.perf_counter()
            done = powerSGD_hook(state, bucket)
            done.wait()
            seconds[0] = time.perf_counter() - begin
            return done

        # Without annotations, which it would compare as text.
        model.register_comm_hook(None, lambda _, bucket: timed(bucket))
        images = torch.randn(2, 3, 32, 32)

        def hook() -> float:
            model(images).sum().backward()
            return seconds[0]

        hook()
        hook()
        self.runs[f"PowerSGD {rank}"] = hook
        # Reads gradients twice and the error once, and writes the error and the gradients.
        self.bytes[f"PowerSGD {rank}"] = 5 * 4

    def _add_fused_step(
        self,
        layout: Layout,
        label: str,
        compressor: Compressor,
        start: torch.Tensor,
        other: torch.Tensor,
    ) -> None:
        num_bytes = compressor.message_bytes(layout)
        *messages, out = (Message(torch.zeros(num_bytes, dtype=torch.uint8)) for _ in range(4))
        for message in messages:
            compressor.encode(layout, start, other, message)
        hat, z, buf = torch.zeros(3, layout.num_entries)
        row = (LEARNING_RATE, WEIGHT_DECAY, MOMENTUM, 0.0, 0.45)
        update = SGDUpdate(
            layout,
            start.clone(),
            buf,
            z,
            layout.views(torch.full_like(start, 1e-3)),
            np.array([row] * layout.num_tensors, dtype=np.float32),
        )
        weights = ((1.0, 0.0, 0.0), (-2 / 3, 1 / 3, 1 / 3))
        step = FUSED_STEPS[type(compressor)]

        def fused_step() -> None:
            step(update, messages, (hat, z), weights, hat, out)

        self.runs[f"{label}: fused step"] = fused_step
        self.bytes[f"{label}: fused step"] = 9 * 4 + 4 * num_bytes / layout.num_entries


@dataclass(frozen=True)
class Times:
    """What was measured with one number of threads, run by run and round by round."""

    seconds: dict[str, list[float]]
    # of a copy on one thread in the same round
    copies: dict[str, list[float]]


def measure(runs: dict[str, Callable[[], object]], repeats: int, num_threads: int) -> Times:
    """Time each run `repeats` times; the copy is always on one thread.

    A run that times a part of itself returns the seconds of that.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            torch.set_num_threads(1 if name == "copy" else num_threads)
            start = time.perf_counter()
            found = run()
            own = found if isinstance(found, float) else time.perf_counter() - start
            seconds[name].append(own)
    copies = {
        name: [each / copy for each, copy in zip(times, seconds["copy"], strict=True)]
        for name, times in seconds.items()
    }
    return Times(seconds, copies)


def with_spread(values: list[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def main() -> None:
    description, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default 1 2)"
    )
    parser.add_argument("--repeats", type=int, default=25, help="rounds (default 25)")
    parser.add_argument("--output", type=Path, help="JSON file for all times")
    arguments = parser.parse_args()

    use_memory_well()
    layout = resnet50_layout()
    parts = Parts(layout)
    measured = {
        num_threads: measure(parts.runs, arguments.repeats, num_threads)
        for num_threads in arguments.threads
    }
    print(f"{layout.num_entries:,} float32 in {layout.num_tensors} tensors")
    print(f"{processor_name()}, {arguments.repeats} rounds\n")
    print("| part | threads | ms | copies | bytes per entry | copies at the copy's rate |")
    print("|---|---|---|---|---|---|")
    for name, touched in parts.bytes.items():
        for num_threads, times in measured.items():
            milliseconds = with_spread([1000 * each for each in times.seconds[name]], 1)
            print(
                f"| {name} | {num_threads} | {milliseconds} | {with_spread(times.copies[name], 2)} "
                f"| {touched:.2f} | {touched / COPY_BYTES:.2f} |"
            )
    figures = {
        "numba": numba.__version__,
        "num_entries": layout.num_entries,
        "num_tensors": layout.num_tensors,
        "bytes_per_entry": parts.bytes,
        "threads": {num_threads: asdict(times) for num_threads, times in measured.items()},
    }
    keep(arguments.output, figures)


if __name__ == "__main__":
    main()
