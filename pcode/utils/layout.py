"""How the tensors of a model lie in one flat vector."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate

import torch


@dataclass(frozen=True)
class Layout:
    """Names, shapes, sizes and offsets (in entries) of the tensors of a flat vector, in order.

    The tensors lie back to back: tensor l holds entries offsets[l] to offsets[l] + sizes[l].
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...] = field(init=False)
    offsets: tuple[int, ...] = field(init=False)
    num_entries: int = field(init=False)

    def __post_init__(self) -> None:
        sizes = tuple(math.prod(shape) for shape in self.shapes)
        *offsets, num_entries = accumulate(sizes, initial=0)
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "offsets", tuple(offsets))
        object.__setattr__(self, "num_entries", num_entries)

    @classmethod
    def of(cls, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> Layout:
        """Return the layout of these tensors in this order."""
        pairs = [(name, tuple(tensor.shape)) for name, tensor in named_tensors]
        return cls(tuple(name for name, _ in pairs), tuple(shape for _, shape in pairs))

    @classmethod
    def of_sizes(cls, sizes: Iterable[int]) -> Layout:
        """Return a layout of one-dimensional tensors, named by their position."""
        shapes = tuple((size,) for size in sizes)
        return cls(tuple(str(index) for index in range(len(shapes))), shapes)

    @property
    def num_tensors(self) -> int:
        return len(self.sizes)

    def views(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """Return each tensor's view into `vector`, a flat tensor of num_entries."""
        return [
            vector[offset : offset + size].view(shape)
            for offset, size, shape in zip(self.offsets, self.sizes, self.shapes, strict=True)
        ]
