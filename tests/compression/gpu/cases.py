"""The compressors whose kernels for the GPU are tested, with what they are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pcode.compression import Compressor, Message, make_compressor
from pcode.compression.base import Difference, KernelCompressor, Kernels, WeightedSum
from pcode.compression.none import triton as none
from pcode.compression.qsgd import triton as qsgd
from pcode.compression.random_k import triton as random_k
from pcode.compression.sign import triton as sign
from pcode.compression.top_k import triton as top_k
from pcode.utils.layout import Layout

DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
KEY = (1 << 64) - 12_345
# Targets x messages.
WEIGHTS = np.array([[1.0, 0.1, -0.7], [1 / 3, 0.0, 1e-3]], dtype=np.float32)


@dataclass(frozen=True)
class Case:
    """A compressor, and the module of its functions for the GPU."""

    kernels: Kernels
    name: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return "-".join(map(str, [self.name, *self.options.values()]))

    def compressor(self) -> Compressor:
        return make_compressor(self.name, **self.options)

    def encode(self, layout: Layout, difference: Difference, message: Message) -> None:
        """Encode by the functions for the GPU, wherever the tensors are."""
        self.kernels.encode(layout, difference, message, *self._parameters(layout))

    def accumulate(self, layout: Layout, added: WeightedSum) -> None:
        """Add messages by the functions for the GPU, wherever the tensors are."""
        self.kernels.accumulate(layout, added, *self._parameters(layout))

    def _parameters(self, layout: Layout) -> tuple[Any, ...]:
        compressor = self.compressor()
        assert isinstance(compressor, KernelCompressor)
        return compressor.parameters(layout)


CASES = [
    Case(none, "none"),
    Case(sign, "sign"),
    *(Case(top_k, "compress_top_k", {"compress_ratio": ratio}) for ratio in (0.99, 0.5)),
    Case(random_k, "compress_random_k", {"compress_ratio": 0.99}),
    Case(random_k, "compress_random_k", {"compress_ratio": 0.5, "is_biased": False}),
    *(Case(qsgd, "quantize_qsgd", {"quantize_level": level}) for level in (1, 2, 4, 8, 16)),
    Case(none, "quantize_qsgd", {"quantize_level": 32}),
    Case(qsgd, "quantize_qsgd", {"quantize_level": 4, "is_biased": False}),
]


def room(case: Case, layout: Layout, device: torch.device, key: int = KEY) -> Message:
    """A message to be written, filled with ones."""
    num_bytes = case.compressor().message_bytes(layout)
    return Message(torch.full((num_bytes,), 0xFF, dtype=torch.uint8, device=device), key)


def on_cpu(
    case: Case,
    layout: Layout,
    value: torch.Tensor,
    reference: torch.Tensor | None = None,
    key: int = KEY,
) -> Message:
    """What the CPU sends."""
    found = room(case, layout, torch.device("cpu"), key)
    case.compressor().encode(layout, value, reference, found)
    return found


def on_gpu(
    case: Case,
    layout: Layout,
    value: torch.Tensor,
    reference: torch.Tensor | None = None,
    key: int = KEY,
) -> Message:
    """What the GPU sends."""
    found = room(case, layout, DEVICE, key)
    minus = None if reference is None else reference.to(DEVICE)
    case.encode(layout, Difference(value.to(DEVICE), minus), found)
    return found


def drawn(layout: Layout, seed: int) -> torch.Tensor:
    """A vector of normally distributed entries."""
    return torch.randn(layout.num_entries, generator=torch.Generator().manual_seed(seed))
