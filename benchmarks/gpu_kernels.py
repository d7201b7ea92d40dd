"""Time compressors on a GPU, in multiples of a copy that moves as many bytes as they have to.

    python benchmarks/gpu_kernels.py [--repeats N] [--output PATH]

The vector has the layout of ResNet-50: 25,557,032 float32 in 161 tensors. What is timed is what a
node with two neighbours does in a step besides sending:

- copy: one vector into another (`torch.Tensor.copy_`), which measures the bandwidth;
- encode: the message of value - reference;
- accumulate: the own message into hat with weight 1 and into z with weight -2/3, and two
  neighbours' into z with weight 1/3 each.

Times are between CUDA events around one call, of N calls one after another, each once the GPU's
second-level cache has been overwritten; everything is called before anything is timed, which
compiles. The GPU is kept waiting until the call has returned, so that what the processor takes to
launch is not in the time: "host" is how long a call takes to return.

"share" is the copy's bandwidth that a call has reached, over the fewest bytes that it must move:
encode reads value and reference and writes the message, accumulate reads and writes both targets
and reads three messages. Where a message names few entries only those are counted, at 4 bytes
each. "share moved" is over the bytes that memory has to move for the way it is done: a qsgd
message's norm takes a pass of its own over value and reference, and where few entries of a vector
are touched, as many 32-byte sectors are moved as contain such an entry, if they are spread at
random; in targets again for each message, though the cache may still have some. What top-k's
encoding puts aside is not counted; it is given in multiples of the encoding of sign, one pass over
both vectors. "by torch" is top-k whose entries are selected by torch's operations (by_torch.py of
the tests), a fraction of the code: what the kernels have to be worth.

"aside" is the most memory that a call takes and frees. Launches are the kernels and copies on the
GPU that torch.profiler sees in one call.

The table goes to stdout; with --output all figures go to a JSON file. Without a GPU it ends with
status 2.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

import kernels
from gpu_device import gpu_name, require_gpu
from harness import keep
from pcode.compression import Message, make_compressor
from pcode.compression.qsgd import QSGD
from pcode.compression.random_k import RandomK
from pcode.compression.top_k import TopK
from pcode.compression.top_k import triton as top_k
from pcode.utils.layout import Layout
from tests.compression.gpu import by_torch

CASES: tuple[tuple[str, str, dict[str, object]], ...] = (
    *kernels.CASES,
    ("top-k .9", "compress_top_k", {"compress_ratio": 0.9}),
    ("top-k .5", "compress_top_k", {"compress_ratio": 0.5}),
    ("random-k .5", "compress_random_k", {"compress_ratio": 0.5}),
    ("qsgd 16", "quantize_qsgd", {"quantize_level": 16}),
)
WEIGHTS = ((1.0, 0.0, 0.0), (-2 / 3, 1 / 3, 1 / 3))
ONE_PASS = "sign: encode"
# More than the second-level cache of any GPU so far.
CACHE_BYTES = 256 << 20
# The least that a GPU's memory moves.
SECTOR_BYTES = 32
# For which a GPU waits at first, at some 1 to 2 per nanosecond; longer where a call takes longer.
LEAST_CYCLES, MOST_CYCLES = 2_000_000, 1_000_000_000


@dataclass(frozen=True)
class Part:
    """A call to time, the fewest bytes that it reads and writes, and those that memory moves."""

    run: Callable[[], object]
    num_bytes: int
    moved_bytes: int


@dataclass(frozen=True)
class Times:
    """Of one part, call by call: between events on the GPU, and until the call returns."""

    seconds: list[float]
    host_seconds: list[float]
    num_launches: int
    aside_bytes: int


def parts_of(layout: Layout) -> dict[str, Part]:
    value, reference, hat, z = (torch.randn(layout.num_entries, device="cuda") for _ in range(4))
    copied = torch.empty_like(value)
    vector_bytes = 4 * layout.num_entries
    parts = {"copy": Part(lambda: copied.copy_(value), 2 * vector_bytes, 2 * vector_bytes)}

    def add(label: str, name: str, options: dict[str, object]) -> None:
        compressor = make_compressor(name, **options)
        message_bytes = compressor.message_bytes(layout)
        messages = [
            Message(torch.zeros(message_bytes, dtype=torch.uint8, device="cuda"), key)
            for key in range(3)
        ]
        for message in messages[1:]:
            compressor.encode(layout, reference, value, message)
        read = changed = vector_bytes
        if isinstance(compressor, TopK | RandomK):
            changed = 4 * sum(compressor.selected(layout))
        if isinstance(compressor, RandomK):
            read = changed
        # Into hat one message, into z three, which need not name the same entries.
        targets = changed + min(3 * changed, vector_bytes)
        moved_to_encode, moved_targets = 2 * read, targets
        if isinstance(compressor, QSGD):
            moved_to_encode += 2 * vector_bytes
        if changed < vector_bytes:
            untouched = (1 - changed / vector_bytes) ** (SECTOR_BYTES // 4)
            sectors = round(vector_bytes * (1 - untouched))
            # Each message has a pass of its own: one into hat, three into z.
            moved_targets = 4 * sectors
            if isinstance(compressor, RandomK):
                moved_to_encode = 2 * sectors

        def encode() -> None:
            compressor.encode(layout, value, reference, messages[0])

        def accumulate() -> None:
            compressor.accumulate(layout, messages, (hat, z), WEIGHTS)

        parts[f"{label}: encode"] = Part(
            encode, 2 * read + message_bytes, moved_to_encode + message_bytes
        )
        parts[f"{label}: accumulate"] = Part(
            accumulate, 2 * targets + 3 * message_bytes, 2 * moved_targets + 3 * message_bytes
        )

    for case in CASES:
        add(*case)
    for name, part in list(parts.items()):
        if name.startswith("top-k") and name.endswith("encode"):
            parts[f"{name} by torch"] = replace(part, run=partial(selecting_by_torch, part.run))
    return parts


def selecting_by_torch(run: Callable[[], object]) -> None:
    with patch.object(top_k, "_select", by_torch.select):
        run()


def aside_bytes(run: Callable[[], object]) -> int:
    """The most memory that a call takes and frees."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


def num_launches(run: Callable[[], object]) -> int:
    """What one call puts on the GPU."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        run()
        torch.cuda.synchronize()
    return sum(event.device_type.name == "CUDA" for event in profiled.events() or ())


def measure(run: Callable[[], object], repeats: int) -> Times:
    for _ in range(3):
        run()
    launches, aside = num_launches(run), aside_bytes(run)
    cache = torch.empty(CACHE_BYTES, dtype=torch.uint8, device="cuda")
    seconds: list[float] = []
    host_seconds: list[float] = []
    cycles = LEAST_CYCLES
    while len(seconds) < repeats:
        cache.zero_()
        torch.cuda.synchronize()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(cycles)
        begin.record()
        start = time.perf_counter()
        run()
        host = time.perf_counter() - start
        has_waited = not begin.query()
        end.record()
        torch.cuda.synchronize()
        if not has_waited:
            cycles *= 2
            if cycles > MOST_CYCLES:
                raise RuntimeError("the call waits for the GPU")
            continue
        host_seconds.append(host)
        seconds.append(begin.elapsed_time(end) / 1000)
    return Times(seconds, host_seconds, launches, aside)


def table(parts: dict[str, Part], measured: dict[str, Times]) -> list[str]:
    """Lines of the table of medians."""
    medians = {name: statistics.median(times.seconds) for name, times in measured.items()}
    bandwidth = parts["copy"].num_bytes / medians["copy"]
    lines = [
        "| part | ms | host ms | MB | GB/s | share | share moved | passes of sign | launches "
        "| MB aside |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, part in parts.items():
        times, rate = measured[name], part.num_bytes / medians[name]
        milliseconds = kernels.with_spread([1000 * each for each in times.seconds], 3)
        host = statistics.median(times.host_seconds)
        lines.append(
            f"| {name} | {milliseconds} | {1000 * host:.3f} | {part.num_bytes / 1e6:.1f} "
            f"| {rate / 1e9:.0f} | {rate / bandwidth:.2f} "
            f"| {part.moved_bytes / medians[name] / bandwidth:.2f} "
            f"| {medians[name] / medians[ONE_PASS]:.2f} | {times.num_launches} "
            f"| {times.aside_bytes / 1e6:.1f} |"
        )
    return lines


def main() -> None:
    description, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=50, help="calls timed (default 50)")
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    arguments = parser.parse_args()
    require_gpu()
    layout = kernels.resnet50_layout()
    parts = parts_of(layout)
    measured = {name: measure(part.run, arguments.repeats) for name, part in parts.items()}
    print(f"{layout.num_entries:,} float32 in {layout.num_tensors} tensors")
    print(f"{gpu_name()}, {arguments.repeats} calls\n")
    print(*table(parts, measured), sep="\n")
    figures = {
        "gpu": gpu_name(),
        "cuda": torch.version.cuda,
        "triton": version("triton"),
        "num_entries": layout.num_entries,
        "num_tensors": layout.num_tensors,
        "num_bytes": {name: part.num_bytes for name, part in parts.items()},
        "moved_bytes": {name: part.moved_bytes for name, part in parts.items()},
        "times": {name: asdict(times) for name, times in measured.items()},
    }
    keep(arguments.output, figures)


if __name__ == "__main__":
    main()
