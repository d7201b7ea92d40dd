"""How many entries a sparsifier selects of each tensor, and what follows from their share."""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np

from pcode.utils.errors import UserError
from pcode.utils.layout import Layout

# Selected shares that gamma is tuned for, on a ring of 8: arXiv 1907.09356, appendix.
TUNED_SHARES = (0.01, 0.1, 0.5)


def check_ratio(compress_ratio: float) -> None:
    """Raise UserError unless the share that is dropped is in [0, 1)."""
    if not 0 <= compress_ratio < 1:
        raise UserError(
            f"--compress_ratio {compress_ratio}: must be at least 0 and less than 1, "
            "the share of the entries that is dropped"
        )


def _selected_share(compress_ratio: float) -> Fraction:
    """1 - ratio, of the decimal that is written, not the binary fraction next to it."""
    return 1 - Fraction(repr(float(compress_ratio)))


def selected_entries(size: int, compress_ratio: float) -> int:
    """Entries selected of a tensor of `size`: size (1 - compress_ratio) rounded down, at least 1.

    The ratio is taken as it is typed: of 1000 entries .9 selects 100. An empty tensor has none.
    """
    if size == 0:
        return 0
    return max(1, int(size * _selected_share(compress_ratio)))


def selected_in_words(compress_ratio: float, which: str = "") -> str:
    """What is selected and dropped, the ratio as it is typed, for a run's first lines.

    Args:
        which: of the entries are selected, with a space at the end.
    """
    percent = 100 * _selected_share(compress_ratio)
    return (
        f"keeps {which}{float(percent):g} % of the entries of each tensor "
        f"(drops {float(100 - percent):g} %)"
    )


def consensus_stepsize(compress_ratio: float, tuned: Sequence[float]) -> float:
    """gamma between the ones tuned for TUNED_SHARES, log over log; the nearest of them outside."""
    share = math.log(_selected_share(compress_ratio))
    return math.exp(np.interp(share, np.log(TUNED_SHARES), np.log(tuned)))


@lru_cache(maxsize=64)
def _selected(sizes: tuple[int, ...], compress_ratio: float) -> tuple[int, ...]:
    return tuple(selected_entries(size, compress_ratio) for size in sizes)


def selected_of(layout: Layout, compress_ratio: float) -> tuple[int, ...]:
    """Entries selected of each tensor, computed once per layout and ratio."""
    return _selected(layout.sizes, compress_ratio)
