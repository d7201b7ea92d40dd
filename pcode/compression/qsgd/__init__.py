"""Random rounding to a few bits for each entry, and one scale per tensor."""

from dataclasses import replace
from typing import Annotated, Any

from pcode.compression.base import IS_BIASED, KernelCompressor, Kernels
from pcode.compression.none import NoCompression
from pcode.compression.qsgd import cpu
from pcode.compression.qsgd.places import errors_of, places_of
from pcode.utils.errors import UserError
from pcode.utils.layout import Layout
from pcode.utils.options import Option, needs

# gamma by level, the bits of a magnitude: the tuning of arXiv 1907.09356 for a ring of 8; level 1
# continues its trend.
_CONSENSUS_STEPSIZES = {1: 0.01, 2: 0.025, 4: 0.075, 8: 0.2, 16: 0.2, 32: 1.0}
_ROUNDS = needs("quantize_level", "--quantize_level 32 keeps all bits", (32).__ne__)


class QSGD(KernelCompressor):
    """Random rounding: Q(v) = ||v||_2 * sign(v) * xi / s, s = 2^b - 1, for each tensor.

    xi is s |v| / ||v||_2 rounded down, or up with the probability of its fraction. Biased, Q is
    that times 1 / (1 + min(d / s^2, sqrt(d) / s)), which makes it a contraction. 32 bits are the
    identity, and the message then is that of NoCompression.

    The message holds a float32 scale for each tensor, then for each tensor ceil(d / 8) bytes of
    signs, 1 where v < 0, and ceil(d b / 8) bytes of magnitudes xi at b bits; entry 0 is in the
    lowest bits, and what is left of a last byte is zero. Numbers are little-endian. The scale is
    ||v||_2 / s with the factor of the biased form, computed in float64 and rounded once, so that
    both ends multiply xi by the same number; the weight is rounded to float32 and multiplies that
    product. The norm is summed in float64, in an order fixed by the tensor alone; one above
    float32's largest number counts as that, which changes the steps but no expectation.

    What is rounded up is decided by 31 bits that depend on the message's key, the tensor's number
    and the entry's number within it (`draw` of the kernels), not on the number of threads;
    entries 2^32 apart share them.

    Source: QSGD of Alistarh et al., NeurIPS 2017 (arXiv 1610.02132), in the form of Koloskova et
    al., ICML 2019 (arXiv 1902.00340, section 3.5). Difference: s is 2^b - 1, so that the integers
    0..s fill b bits, and the sign takes another one.

    Args:
        quantize_level: b, bits of a magnitude: 1, 2, 4, 8, 16 or 32.
        is_biased: scale Q so that it is a contraction.

    Raises:
        UserError: no such level.
    """

    def __init__(
        self,
        quantize_level: Annotated[int, Option("bits of a magnitude")] = 8,
        is_biased: Annotated[bool, replace(IS_BIASED, irrelevant=_ROUNDS)] = True,
    ) -> None:
        if quantize_level not in _CONSENSUS_STEPSIZES:
            raise UserError(f"--quantize_level {quantize_level}: must be 1, 2, 4, 8, 16 or 32")
        self.quantize_level, self.is_biased = quantize_level, is_biased
        self._identity = NoCompression() if quantize_level == 32 else None
        self.cpu_kernels: Kernels = cpu if self._identity is None else self._identity.cpu_kernels

    @property
    def default_consensus_stepsize(self) -> float:
        return _CONSENSUS_STEPSIZES[self.quantize_level]

    @property
    def description(self) -> str:
        if self._identity is not None:
            return self._identity.description
        form = "biased" if self.is_biased else "unbiased"
        return f"{self.quantize_level}-bit magnitudes and a sign, rounded at random, {form}"

    def message_bytes(self, layout: Layout) -> int:
        if self._identity is not None:
            return self._identity.message_bytes(layout)
        return int(places_of(layout.sizes, self.quantize_level)[-1, 0])

    def contraction(self, layout: Layout) -> float:
        """1 / (1 + m), unbiased 1 - m, with m = min(d / s^2, sqrt(d) / s) of the largest tensor."""
        if self._identity is not None:
            return self._identity.contraction(layout)
        most = float(errors_of(layout.sizes, self.quantize_level).max(initial=0))
        return 1 / (1 + most) if self.is_biased else 1 - most

    def parameters(self, layout: Layout) -> tuple[Any, ...]:  # level, is_biased
        return () if self._identity is not None else (self.quantize_level, self.is_biased)

    def triton_kernels(self) -> Kernels:
        from pcode.compression.qsgd import triton

        return triton if self._identity is None else self._identity.triton_kernels()
