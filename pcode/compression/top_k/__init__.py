"""The largest entries and their positions."""

from pcode.compression.base import CompressRatio, KernelCompressor, Kernels
from pcode.compression.kernels.cpu.elias_fano import Code, code_of
from pcode.compression.selection import (
    check_ratio,
    consensus_stepsize,
    selected_in_words,
    selected_of,
)
from pcode.utils.errors import UserError
from pcode.utils.layout import Layout

MOST_ENTRIES = 1 << 32
# gamma tuned for TUNED_SHARES.
TUNED_STEPSIZES = (0.0375, 0.04, 0.45)


class TopK(KernelCompressor):
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

    def __init__(self, compress_ratio: CompressRatio = 0.9) -> None:
        check_ratio(compress_ratio)
        self.compress_ratio = compress_ratio

    @property
    def default_consensus_stepsize(self) -> float:
        return consensus_stepsize(self.compress_ratio, TUNED_STEPSIZES)

    @property
    def description(self) -> str:
        return selected_in_words(self.compress_ratio, "the largest ")

    def selected(self, layout: Layout) -> tuple[int, ...]:
        """Entries selected of each tensor."""
        if layout.num_entries > MOST_ENTRIES:
            raise UserError(
                f"top-k compresses at most {MOST_ENTRIES} entries, not {layout.num_entries}"
            )
        return selected_of(layout, self.compress_ratio)

    def code(self, layout: Layout) -> Code:
        """The form of the code of the positions."""
        return code_of(sum(self.selected(layout)), layout.num_entries)

    def message_bytes(self, layout: Layout) -> int:
        code = self.code(layout)
        return 4 * code.num_positions + code.num_bytes

    def contraction(self, layout: Layout) -> float:
        selected = self.selected(layout)
        shares = [k / size for k, size in zip(selected, layout.sizes, strict=True) if size > 0]
        return min(shares, default=1.0)

    def cpu_kernels(self) -> Kernels:
        from pcode.compression.top_k import cpu

        return cpu

    def triton_kernels(self) -> Kernels:
        from pcode.compression.top_k import triton

        return triton
