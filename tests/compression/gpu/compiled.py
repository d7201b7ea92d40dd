"""Compile for a GPU that need not be there every kernel that the compressors launch.

    python -m tests.compression.gpu.compiled

Triton's interpreter takes what its compiler refuses. Here the compressors' own calls go as far as
the machine code for an H100 (compute capability 9.0), and nothing is launched. Prints a line for
each compiled kernel.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from pcode.compression import Message
from pcode.layout import Layout
from tests.compression.gpu.cases import CASES, WEIGHTS

# Short and long tensors for all of them; aligned, then not.
LAYOUTS = [Layout.of_sizes([64, 100_000]), Layout.of_sizes([63, 100_000])]


class Driver:
    """What Triton asks of a driver before it launches."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def compile_launches() -> dict[str, Any]:
    """The compiled kernels by their names, layouts and compressors."""
    triton.runtime.driver.set_active(Driver())
    found: dict[str, Any] = {}
    run, label = JITFunction.run, ""

    def compile_only(self: JITFunction, *args: Any, **kwargs: Any) -> None:
        compiled = run(self, *args, **{**kwargs, "warmup": True})
        found[f"{label} {compiled.metadata.name}"] = compiled

    JITFunction.run = compile_only
    for case in CASES:
        for layout in LAYOUTS:
            label = f"{case.label} {layout.sizes[0]}"
            compressor = case.compressor()
            num_bytes = compressor.message_bytes(layout)
            messages = [
                Message(torch.zeros(num_bytes, dtype=torch.uint8), (1 << 62) + m)
                for m in range(len(WEIGHTS[0]))
            ]
            vectors = [torch.zeros(layout.num_entries) for _ in range(2)]
            for reference in (vectors[1], None):
                case.kernels.encode(compressor, layout, vectors[0], reference, messages[0])
            case.kernels.accumulate(compressor, layout, messages, vectors, WEIGHTS)
    return found


if __name__ == "__main__":
    for name, kernel in compile_launches().items():
        print(name, "shared bytes", kernel.metadata.shared)
