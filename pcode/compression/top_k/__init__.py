"""The largest entries and their positions."""

from typing import Any

from pcode.compression.base import KernelCompressor, Kernels
from pcode.compression.kernels.cpu.elias_fano import Code, code_of
from pcode.compression.selection import Sparsifier
from pcode.compression.top_k import cpu
from pcode.utils.errors import UserError
from pcode.utils.layout import Layout

MOST_ENTRIES = 1 << 32


class TopK(Sparsifier, KernelCompressor):
    """The k entries of largest |v| of each tensor, unscaled; k = max(1, int(d (1 - ratio))).

    Of equal magnitudes those at the lowest positions are selected. The message holds their values
    as little-endian float32, in the order of their positions in the vector, then the positions as
    one Elias-Fano code over the whole vector (`pcode.compression.kernels.cpu.elias_fano`).

    A product of weight and value is rounded to float32 before it is added. A message that no
    encoder wrote may add something senseless, but only within the targets.

    Source: top-k of Stich et al., NeurIPS 2018 (arXiv 1809.07599), for each tensor separately.

    Args:
        compress_ratio: the share of the entries that is dropped, in [0, 1).

    Raises:
        UserError: it is not; or, from every method, a layout has more than 2^32 entries.
    """

    cpu_kernels = cpu
    tuned_stepsizes = (0.0375, 0.04, 0.45)

    @property
    def description(self) -> str:
        return self.in_words("the largest ")

    def selected(self, layout: Layout) -> tuple[int, ...]:
        if layout.num_entries > MOST_ENTRIES:
            raise UserError(
                f"top-k compresses at most {MOST_ENTRIES} entries, not {layout.num_entries}"
            )
        return super().selected(layout)

    def code(self, layout: Layout) -> Code:
        """Return the form of the code of the positions."""
        return code_of(sum(self.selected(layout)), layout.num_entries)

    def parameters(self, layout: Layout) -> tuple[Any, ...]:  # num_selected, code
        return self.selected(layout), self.code(layout)

    def message_bytes(self, layout: Layout) -> int:
        code = self.code(layout)
        return 4 * code.num_positions + code.num_bytes

    def triton_kernels(self) -> Kernels:
        from pcode.compression.top_k import triton

        return triton
