"""What compressors have in common that send some entries of each tensor."""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np

from pcode.compression.base import Compressor, CompressRatio
from pcode.utils.errors import UserError
from pcode.utils.layout import Layout

# Selected shares that gamma is tuned for, on a ring of 8: arXiv 1907.09356, appendix.
TUNED_SHARES = (0.01, 0.1, 0.5)


def _selected_share(compress_ratio: float) -> Fraction:
    """1 - ratio, of the decimal that is written, not the binary fraction next to it."""
    return 1 - Fraction(repr(float(compress_ratio)))


def selected_entries(size: int, compress_ratio: float) -> int:
    """Return size (1 - compress_ratio) rounded down, at least 1: so many entries are selected.

    The ratio is taken as it is typed: of 1000 entries .9 selects 100. An empty tensor has none.
    """
    if size == 0:
        return 0
    return max(1, int(size * _selected_share(compress_ratio)))


@lru_cache(maxsize=64)
def selected_of(sizes: tuple[int, ...], compress_ratio: float) -> tuple[int, ...]:
    """`selected_entries` of tensors of these sizes, computed once."""
    return tuple(selected_entries(size, compress_ratio) for size in sizes)


class Sparsifier(Compressor):
    """A compressor that sends `selected_entries` of each tensor.

    Attributes:
        tuned_stepsizes: gamma tuned for TUNED_SHARES; between them it is interpolated, log over
            log, and outside it is the nearest.

    Args:
        compress_ratio: the share of the entries that is dropped, in [0, 1).

    Raises:
        UserError: it is not.
    """

    is_sparse = True
    tuned_stepsizes: Sequence[float]

    def __init__(self, compress_ratio: CompressRatio = 0.9) -> None:
        if not 0 <= compress_ratio < 1:
            raise UserError(
                f"--compress_ratio {compress_ratio}: must be at least 0 and less than 1, "
                "the share of the entries that is dropped"
            )
        self.compress_ratio = compress_ratio

    @property
    def default_consensus_stepsize(self) -> float:
        share = math.log(_selected_share(self.compress_ratio))
        return math.exp(np.interp(share, np.log(TUNED_SHARES), np.log(self.tuned_stepsizes)))

    def selected(self, layout: Layout) -> tuple[int, ...]:
        """Return how many entries are selected of each tensor."""
        return selected_of(layout.sizes, self.compress_ratio)

    def in_words(self, which: str = "") -> str:
        """Return what is selected and dropped, the ratio as it is typed, for a run's first lines.

        Args:
            which: of the entries are selected, with a space at the end.
        """
        percent = 100 * _selected_share(self.compress_ratio)
        return (
            f"selects {which}{float(percent):g} % of the entries of each tensor "
            f"(drops {float(100 - percent):g} %)"
        )

    def contraction(self, layout: Layout) -> float:
        """k / d of the tensor with the smallest share."""
        selected = self.selected(layout)
        shares = [k / size for k, size in zip(selected, layout.sizes, strict=True) if size > 0]
        return min(shares, default=1.0)
