"""No compression: Q(v) = v."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pcode.compression.base import Compressor, Message
from pcode.compression.kernels import dense
from pcode.compression.memory import (
    accumulate_arguments,
    address_of,
    payload_address,
    reference_of,
)
from pcode.layout import Layout


class NoCompression(Compressor):
    """Identity: the message is the 4 d bytes of the float32 difference."""

    def message_bytes(self, layout: Layout) -> int:
        return 4 * layout.num_entries

    def encode(
        self, layout: Layout, value: torch.Tensor, reference: torch.Tensor | None, message: Message
    ) -> None:
        dense.difference(
            address_of(layout, value),
            *reference_of(layout, reference),
            payload_address(message, self.message_bytes(layout)),
            layout.num_entries,
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
        dense.accumulate(*given, layout.num_entries)

    def contraction(self, layout: Layout) -> float:
        return 1.0
