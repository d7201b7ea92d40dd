"""No compression: Q(v) = v."""

from pcode.compression.base import KernelCompressor, Kernels
from pcode.compression.none import cpu
from pcode.utils.layout import Layout


class NoCompression(KernelCompressor):
    """Identity: the message is the 4 d bytes of the float32 difference."""

    cpu_kernels = cpu
    description = "all entries as float32"

    def message_bytes(self, layout: Layout) -> int:
        return 4 * layout.num_entries

    def contraction(self, layout: Layout) -> float:
        return 1.0

    def triton_kernels(self) -> Kernels:
        from pcode.compression.none import triton

        return triton
