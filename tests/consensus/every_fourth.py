"""A compressor that is easy to foresee, and for which a large gamma diverges."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pcode.compression import Compressor, Message
from pcode.utils.layout import Layout


class EveryFourth(Compressor):
    """One entry of four, the next four in each round: delta 1/4 over the draw of the key."""

    def message_bytes(self, layout: Layout) -> int:
        return 4 * layout.num_entries

    def encode(
        self, layout: Layout, value: torch.Tensor, reference: torch.Tensor | None, message: Message
    ) -> None:
        difference = value.clone() if reference is None else value - reference
        kept = torch.arange(layout.num_entries) % 4 == message.key % 4
        message.payload.view(torch.float32).copy_(difference * kept)

    def accumulate(
        self,
        layout: Layout,
        messages: Sequence[Message],
        targets: Sequence[torch.Tensor],
        weights: Sequence[Sequence[float]],
    ) -> None:
        for target, row in zip(targets, weights, strict=True):
            for message, weight in zip(messages, row, strict=True):
                target.add_(message.payload.view(torch.float32), alpha=weight)

    def contraction(self, layout: Layout) -> float:
        return 0.25
