"""One bit per entry and one norm per tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

import torch

from pcode.compression.base import Compressor, Message
from pcode.compression.kernels import sign as kernels
from pcode.compression.memory import (
    accumulate_arguments,
    address_of,
    payload_address,
    reference_of,
    sizes_of,
)
from pcode.layout import Layout


@lru_cache(maxsize=64)
def _message_bytes(sizes: tuple[int, ...]) -> int:
    return sum((size + 7) // 8 + 4 for size in sizes)


class Sign(Compressor):
    """Sign and mean: Q(v) = (||v||_1 / d) * s, s = -1 where v < 0, else +1, for each tensor.

    The message holds a float32 ||v||_1 / d for each tensor, then for each tensor ceil(d / 8)
    bytes of bits, 1 where v < 0, entry i at bit i % 8 of byte i // 8; the last byte ends in
    zeros. Numbers are little-endian. Zero and -0.0 count as positive, as does NaN, but a NaN
    or an infinity also makes its tensor's norm one. The norm is summed in float64, in an order
    fixed by the tensor alone. A weight is rounded to float32, and so is its product with the
    norm, before that is added or subtracted.

    Source: the sign compression of Koloskova et al., ICLR 2020 (arXiv 1907.09356), which is the
    scaled sign of Karimireddy et al., ICML 2019 (arXiv 1901.09847). Difference: sign(0) is +1, as
    one bit has no room for 0.
    """

    # Tuned for a ring of 8: arXiv 1907.09356, appendix.
    default_consensus_stepsize: ClassVar[float] = 0.45

    def message_bytes(self, layout: Layout) -> int:
        return _message_bytes(layout.sizes)

    def encode(
        self, layout: Layout, value: torch.Tensor, reference: torch.Tensor | None, message: Message
    ) -> None:
        kernels.encode(
            address_of(layout, value),
            *reference_of(layout, reference),
            payload_address(message, self.message_bytes(layout)),
            sizes_of(layout),
        )

    def accumulate(
        self,
        layout: Layout,
        messages: Sequence[Message],
        targets: Sequence[torch.Tensor],
        weights: Sequence[Sequence[float]],
    ) -> None:
        num_bytes = self.message_bytes(layout)
        given = accumulate_arguments(layout, messages, targets, weights, num_bytes)
        kernels.accumulate(*given, sizes_of(layout))

    def contraction(self, layout: Layout) -> float:
        """2 / pi, what a normally distributed v has.

        delta is ||v||_1^2 / (d ||v||_2^2), which depends on v and falls to 1 / d of the largest
        tensor where a single entry is not zero: a bound too small to say anything about a run.
        """
        return 2 / math.pi
