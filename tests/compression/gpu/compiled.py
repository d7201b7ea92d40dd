"""Compile for a GPU that need not be there what the compressors launch.

    python -m tests.compression.gpu.compiled

Triton's interpreter takes what its compiler refuses. Here the compressors' own calls go as far as
the machine code for an H100 (compute capability 9.0), and nothing is launched. Prints a line for
each compiled kernel; ends with status 1 where one rounds otherwise than a CPU does, or where the
local step reads its vectors by less than 16 bytes though all of them are aligned.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from pcode.compression import Message
from pcode.compression.base import Difference, WeightedSum
from pcode.compression.kernels.gpu.launch import SEGMENT_ENTRIES
from pcode.optim.sgd_update import SGDUpdate
from pcode.utils.layout import Layout
from tests.compression.gpu.cases import CASES, WEIGHTS, Case

# A tensor that random-k shuffles and one of which top-k takes a sample.
ALIGNED = Layout.of_sizes([4096, 100_000])
UNALIGNED = Layout.of_sizes([63, 100_000])
# Denormals flushed to zero, products added without having been rounded, quotients and roots.
ROUNDED_OTHERWISE = re.compile(r"\S*(?:\.ftz|fma\.rn\.f32|\.approx|div\.full)\S*")
# By how much a thread's code reads the vectors.
READ = re.compile(r"ld\.global\S*?((?:\.v[24])?\.b\d+)")


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
        found[f"{label}: {compiled.metadata.name}"] = compiled

    JITFunction.run = compile_only
    try:
        for case in CASES:
            label = case.label
            _launch(case, ALIGNED, has_reference=True)
            if case.label in {"sign", "compress_top_k-0.99"}:
                label = f"{case.label}, unaligned, no reference"
                _launch(case, UNALIGNED, has_reference=False)
        for layout in (ALIGNED, UNALIGNED):
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


def main() -> int:
    status = 0
    kernels = compile_launches()
    if not reads_wide(kernels[f"update of {ALIGNED.sizes}: _update"]):
        print("the local step reads its vectors by less than 16 bytes")
        status = 1
    for name, kernel in kernels.items():
        others = sorted(set(ROUNDED_OTHERWISE.findall(kernel.asm["ptx"])))
        print(f"{name}: {len(kernel.asm['cubin'])} bytes", *others)
        status |= bool(others)
    return status


if __name__ == "__main__":
    sys.exit(main())
