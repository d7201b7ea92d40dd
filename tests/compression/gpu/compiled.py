"""Compile for a GPU that need not be there what the compressors launch.

    python -m tests.compression.gpu.compiled

Triton's interpreter takes what its compiler refuses. Here the compressors' own calls go as far as
the machine code for an H100 (compute capability 9.0), and nothing is launched. Prints a line for
each compiled kernel: registers of a thread, blocks that a multiprocessor has registers for, bytes
of a thread that lie in memory as registers do not suffice, barriers, and by how much its code reads
and writes. Ends with status 1 where one

- rounds otherwise than a CPU does;
- spills more than MOST_SPILLED_BYTES, or takes so many registers that fewer than FEWEST_THREADS
  fit into a multiprocessor;
- reads and writes no entries by 16 bytes in segments that are aligned, or, the local step, reads
  any of its vectors by less;
- reads a byte of qsgd's messages more often than MOST_BYTE_READS.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from pcode.compression import Message
from pcode.compression.base import Difference, WeightedSum
from pcode.compression.kernels.gpu.launch import SEGMENT_ENTRIES, WIDEST_ACCESS
from pcode.optim.sgd_update import SGDUpdate
from pcode.utils.layout import Layout
from tests.compression.gpu.cases import CASES, WEIGHTS, Case

# A tensor that random-k shuffles and one of which top-k takes a sample.
MIXED = Layout.of_sizes([4096, 100_000, 10])
UNALIGNED = Layout.of_sizes([63, 100_000])
# Ends the name of a kernel that takes segments which are aligned.
WIDE = ", by 16 bytes"
# Denormals flushed to zero, products added without having been rounded, quotients and roots.
ROUNDED_OTHERWISE = re.compile(r"\S*(?:\.ftz|fma\.rn\.f32|\.approx|div\.full)\S*")
# By how much a thread's code reads, and reads and writes.
READ = re.compile(r"ld\.global\S*?((?:\.v[24])?\.b\d+)")
ACCESS = re.compile(r"(?:ld|st)\.global\S*?((?:\.v[24])?\.b\d+)")
RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+)")
# Of a multiprocessor, and the threads that should fit into it at least: a quarter of all.
REGISTERS, FEWEST_THREADS = 65536, 512
# A number, which Triton 3.6 puts away in random-k's shuffle.
MOST_SPILLED_BYTES = 8
# Of a thread that adds three messages of qsgd to 16 entries, by bits: below 8 bits, the bytes of a
# row of eight entries once, and else those of each entry; and two of signs.
MOST_BYTE_READS = {1: 12, 2: 18, 4: 30, 8: 54, 16: 102}


class Driver:
    """What Triton asks of a driver before it launches."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def _launch(case: Case, layout: Layout, *, has_reference: bool) -> None:
    """Encode a message, and add it and others into two vectors."""
    compressor = case.compressor()
    num_bytes = compressor.message_bytes(layout)
    messages = [
        Message(torch.zeros(num_bytes, dtype=torch.uint8), (1 << 62) + m)
        for m in range(len(WEIGHTS[0]))
    ]
    vectors = [torch.zeros(layout.num_entries) for _ in range(2)]
    reference = vectors[1] if has_reference else None
    case.encode(layout, Difference(vectors[0], reference), messages[0])
    case.accumulate(layout, WeightedSum(messages, vectors, WEIGHTS))


def _launch_update(layout: Layout) -> None:
    """Step and mix."""
    x, buf, z = (torch.zeros(layout.num_entries) for _ in range(3))
    rows = np.ones((layout.num_tensors, 5), dtype=np.float32)
    SGDUpdate(layout, x, buf, z, layout.views(torch.zeros_like(x)), rows).on_gpu()


def compile_launches() -> dict[str, Any]:
    """The compiled kernels by compressor, layout and name."""
    triton.runtime.driver.set_active(Driver())
    found: dict[str, Any] = {}
    run, label = JITFunction.run, ""

    def compile_only(kernel: JITFunction, *args: Any, **kwargs: Any) -> None:
        compiled = run(kernel, *args, **{**kwargs, "warmup": True})
        aligned = WIDE if kwargs.get("ALIGNMENT") == WIDEST_ACCESS else ""
        found[f"{label}: {compiled.metadata.name}{aligned}"] = compiled

    JITFunction.run = compile_only
    try:
        for case in CASES:
            label = case.label
            _launch(case, MIXED, has_reference=True)
            if case.label in {"sign", "compress_top_k-0.99"}:
                label = f"{case.label}, unaligned, no reference"
                _launch(case, UNALIGNED, has_reference=False)
        for layout in (MIXED, UNALIGNED):
            label = f"update of {layout.sizes}"
            _launch_update(layout)
    finally:
        JITFunction.run = run
    return found


def reads_wide(update_kernel: Any) -> bool:
    """Whether it reads its four vectors by 16 bytes, and but five coefficients by 4."""
    reads = Counter(READ.findall(update_kernel.asm["ptx"]))
    entries = 4 * SEGMENT_ENTRIES // (32 * update_kernel.metadata.num_warps)
    return reads[".v4.b32"] == entries // 4 and reads[".b32"] == 5


def byte_reads(kernels: dict[str, Any]) -> dict[int, int]:
    """How often a thread reads a byte as it adds qsgd's messages, by bits, as MOST_BYTE_READS."""
    found = {}
    for bits in MOST_BYTE_READS:
        ptx = kernels[f"quantize_qsgd-{bits}: _add_entries{WIDE}"].asm["ptx"]
        found[bits] = READ.findall(ptx).count(".b8")
    return found


class Report(NamedTuple):
    """What a kernel takes of a multiprocessor, and how it accesses memory.

    Attributes:
        registers, spilled_bytes: of a thread.
        threads: of a block.
        barriers: in the code.
        accesses: how many there are in the code, by width.
    """

    registers: int
    spilled_bytes: int
    threads: int
    barriers: int
    accesses: Counter[str]

    @property
    def blocks(self) -> int:
        """How many a multiprocessor has registers for, which it deals out to a warp by 256."""
        return REGISTERS // (-(-self.registers // 8) * 8 * self.threads)

    def __str__(self) -> str:
        widths = " ".join(f"{count} x {width}" for width, count in sorted(self.accesses.items()))
        return (
            f"{self.registers} registers, {self.blocks} blocks of {self.threads}, "
            f"{self.spilled_bytes} bytes spilled, {self.barriers} barriers; {widths}"
        )


def report(kernel: Any, folder: Path) -> Report:
    """Ask NVIDIA's tools, which come with Triton."""
    file = folder / "kernel.cubin"
    file.write_bytes(kernel.asm["cubin"])
    tool = Path(nvidia.__file__).parent / "bin/cuobjdump"
    command = [str(tool), "--dump-resource-usage", str(file)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    ((registers, spilled_bytes),) = RESOURCES.findall(text)
    ptx = kernel.asm["ptx"]
    return Report(
        int(registers),
        int(spilled_bytes),
        32 * kernel.metadata.num_warps,
        len(re.findall(r"bar(?:rier)?\.sync|barrier\.cta", ptx)),
        Counter(ACCESS.findall(ptx)),
    )


def main() -> int:
    status = 0
    kernels = compile_launches()
    if not reads_wide(kernels[f"update of {MIXED.sizes}: _update{WIDE}"]):
        print("the local step reads its vectors by less than 16 bytes")
        status = 1
    for bits, count in byte_reads(kernels).items():
        if count > MOST_BYTE_READS[bits]:
            print(f"qsgd, {bits} bits: {count} bytes read, of {MOST_BYTE_READS[bits]} at most")
            status = 1
    with TemporaryDirectory() as folder:
        for name, kernel in kernels.items():
            found = report(kernel, Path(folder))
            others = sorted(set(ROUNDED_OTHERWISE.findall(kernel.asm["ptx"])))
            print(f"{name}: {found}", *others)
            is_narrow = name.endswith(WIDE) and found.accesses[".v4.b32"] == 0
            is_crowded = found.blocks * found.threads < FEWEST_THREADS
            spills = found.spilled_bytes > MOST_SPILLED_BYTES
            status |= bool(others) or is_narrow or is_crowded or spills
    return status


if __name__ == "__main__":
    sys.exit(main())
