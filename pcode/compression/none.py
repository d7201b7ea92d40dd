"""No compression: Q(v) = v."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pcode.compression.base import Compressor, Message
from pcode.compression.dispatch import on_gpu
from pcode.compression.kernels import dense
from pcode.compression.memory import (
    accumulate_arguments,
    address_of,
    check_finite,
    payload_address,
    reference_of,
)
from pcode.compression.parallel import run_segments, segments_of
from pcode.utils.layout import Layout


class NoCompression(Compressor):
    """Identity: the message is the 4 d bytes of the float32 difference."""

    description = "all entries as float32"

    def message_bytes(self, layout: Layout) -> int:
        return 4 * layout.num_entries

    @on_gpu
    def encode(
        self, layout: Layout, value: torch.Tensor, reference: torch.Tensor | None, message: Message
    ) -> None:
        segments = segments_of(layout)
        sums = np.empty(len(segments))
        run_segments(
            dense.difference,
            layout.sizes,
            address_of(layout, value),
            *reference_of(layout, reference),
            payload_address(message, self.message_bytes(layout)),
            sums,
        )
        check_finite(layout, segments, sums)

    @on_gpu
    def accumulate(
        self,
        layout: Layout,
        messages: Sequence[Message],
        targets: Sequence[torch.Tensor],
        weights: Sequence[Sequence[float]],
    ) -> None:
        num_bytes = self.message_bytes(layout)
        given = accumulate_arguments(layout, messages, targets, weights, num_bytes)
        run_segments(dense.accumulate, layout.sizes, *given)

    def contraction(self, layout: Layout) -> float:
        return 1.0
