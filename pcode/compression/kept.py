"""How many entries a sparsifier keeps of each tensor."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

from pcode.errors import UserError
from pcode.layout import Layout


def check_ratio(compress_ratio: float) -> None:
    """Raise UserError unless the share that is dropped is in [0, 1)."""
    if not 0 <= compress_ratio < 1:
        raise UserError(
            f"--compress_ratio {compress_ratio}: must be at least 0 and less than 1, "
            "the share of the entries that is dropped"
        )


def kept_entries(size: int, compress_ratio: float) -> int:
    """Entries kept of a tensor of `size`: size (1 - compress_ratio) rounded down, at least 1.

    The ratio is the decimal that is written, not the binary fraction next to it: of 1000 entries
    .9 keeps 100. An empty tensor keeps 0.
    """
    if size == 0:
        return 0
    return max(1, int(size * (1 - Fraction(repr(float(compress_ratio))))))


@lru_cache(maxsize=64)
def _kept(sizes: tuple[int, ...], compress_ratio: float) -> tuple[int, ...]:
    return tuple(kept_entries(size, compress_ratio) for size in sizes)


def kept_of(layout: Layout, compress_ratio: float) -> tuple[int, ...]:
    """Entries kept of each tensor, computed once per layout and ratio."""
    return _kept(layout.sizes, compress_ratio)
