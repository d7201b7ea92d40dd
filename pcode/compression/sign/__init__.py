"""One bit per entry and one norm per tensor."""

import math

from pcode.compression.base import KernelCompressor, Kernels
from pcode.compression.sign import cpu
from pcode.compression.sign.places import places_of
from pcode.utils.layout import Layout


class Sign(KernelCompressor):
    """Sign and mean: Q(v) = (||v||_1 / d) * s, s = -1 where v < 0, else +1, for each tensor.

    The message holds a float32 ||v||_1 / d for each tensor, then for each tensor ceil(d / 8)
    bytes of bits, 1 where v < 0, entry i at bit i % 8 of byte i // 8; the last byte ends in
    zeros. Numbers are little-endian. Zero and -0.0 count as positive. The norm is summed in
    float64, where finite entries cannot overflow, in an order fixed by the tensor alone. A weight
    is rounded to float32, and so is its product with the norm, before that is added or subtracted.

    Source: the sign compression of Koloskova et al., ICLR 2020 (arXiv 1907.09356), which is the
    scaled sign of Karimireddy et al., ICML 2019 (arXiv 1901.09847). Difference: sign(0) is +1, as
    one bit has no room for 0.
    """

    cpu_kernels = cpu
    # Tuned for a ring of 8: arXiv 1907.09356, appendix.
    default_consensus_stepsize = 0.45
    description = "1 bit an entry and the mean magnitude of each tensor"

    def message_bytes(self, layout: Layout) -> int:
        return int(places_of(layout.sizes)[-1])

    def contraction(self, layout: Layout) -> float:
        """2 / pi, what a normally distributed v has.

        delta is ||v||_1^2 / (d ||v||_2^2), which depends on v and falls to 1 / d of the largest
        tensor where a single entry is not zero: a bound too small to say anything about a run.
        """
        return 2 / math.pi

    def triton_kernels(self) -> Kernels:
        from pcode.compression.sign import triton

        return triton
