"""A compressor with which no gossip converges."""

from __future__ import annotations

import torch

from pcode.compression import Message
from pcode.utils.layout import Layout
from tests.consensus.every_fourth import EveryFourth


class Wrong(EveryFourth):
    """No contraction: what is sent points away."""

    def encode(
        self, layout: Layout, value: torch.Tensor, reference: torch.Tensor | None, message: Message
    ) -> None:
        super().encode(layout, value, reference, message)
        message.payload.view(torch.float32).mul_(-1000)
