"""Some entries of each tensor, drawn at random at both ends."""

from typing import Any

from pcode.compression.base import CompressRatio, IsBiased, KernelCompressor, Kernels
from pcode.compression.random_k import cpu
from pcode.compression.selection import Sparsifier
from pcode.utils.errors import UserError
from pcode.utils.layout import Layout

# The kernels hold a tensor's size in 32 bits.
MOST_ENTRIES = (1 << 32) - 1


class RandomK(Sparsifier, KernelCompressor):
    """Random k: Q(v) is v at k uniformly drawn entries of each tensor and 0 elsewhere.

    k = max(1, d (1 - compress_ratio) rounded down). Unbiased, Q is that times d / k, rounded to
    float32. The message holds the k little-endian float32 values of each tensor, in the order in
    which they are drawn, and nothing else: both ends draw the positions, without replacement, from
    the message's key and the tensor's number. Of a tensor of up to SHUFFLED_ENTRIES entries they
    are the first k of a Fisher-Yates shuffle. In a longer one, value i stands at p(i), where p is
    a keyed permutation of 0..2^m - 1 >= d - 1 that is applied until the result is below d; it is
    four rounds of adding a word, multiplying by an odd one (modulo 2^m) and folding the upper half
    of the bits on the lower. Every value is found by itself, on any number of threads.

    Only the entries that are drawn are read: NaN or infinity is found where it is drawn.

    Source: rand_k of Stich et al., NeurIPS 2018 (arXiv 1809.07599), of each tensor by itself.

    Args:
        compress_ratio: the share of the entries that is dropped, in [0, 1).
        is_biased: leave the values as they are, which makes Q a contraction.

    Raises:
        UserError: a ratio outside [0, 1); or, from every method, a tensor has 2^32 entries or more.
    """

    cpu_kernels = cpu
    tuned_stepsizes = (0.00625, 0.075, 0.45)

    def __init__(self, compress_ratio: CompressRatio = 0.9, is_biased: IsBiased = True) -> None:
        super().__init__(compress_ratio)
        self.is_biased = is_biased

    @property
    def description(self) -> str:
        form = "biased" if self.is_biased else "unbiased"
        return f"{self.in_words()}, drawn at random, {form}"

    def selected(self, layout: Layout) -> tuple[int, ...]:
        largest = max(layout.sizes, default=0)
        if largest > MOST_ENTRIES:
            raise UserError(
                f"random-k compresses at most {MOST_ENTRIES} entries of a tensor, not {largest}"
            )
        return super().selected(layout)

    def parameters(self, layout: Layout) -> tuple[Any, ...]:  # selected, is_biased
        return self.selected(layout), self.is_biased

    def message_bytes(self, layout: Layout) -> int:
        return 4 * sum(self.selected(layout))

    def contraction(self, layout: Layout) -> float:
        """k / d, unbiased 2 - d / k, of the tensor with the smallest share."""
        share = super().contraction(layout)
        return share if self.is_biased else 2 - 1 / share

    def triton_kernels(self) -> Kernels:
        from pcode.compression.random_k import triton

        return triton
