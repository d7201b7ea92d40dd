"""The local step of SGD and the mixing of x, as a pass of its own or part of a compressor's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pcode.compression.base import Compressor, Message
from pcode.compression.dispatch import run_on_gpu
from pcode.compression.kernels import update as kernels
from pcode.compression.memory import address_of
from pcode.compression.parallel import run_segments
from pcode.utils.layout import Layout


@dataclass(frozen=True)
class SGDUpdate:
    """d = g + wd x ; buf = m buf + d ; nesterov: d += m buf, else d = buf ; x += gamma z - lr d.

    In one pass over the vectors, which a compressor may make part of its own: an entry of x depends
    on the same entry of the others only.

    Attributes:
        layout: of the vectors.
        x, buf, z: flat float32 vectors; x and buf are changed.
        gradients: of each tensor, contiguous float32.
        coefficients: float32, a row for each tensor: lr, wd, m, nesterov (0 or 1), gamma.
    """

    layout: Layout
    x: torch.Tensor
    buf: torch.Tensor
    z: torch.Tensor
    gradients: Sequence[torch.Tensor]
    coefficients: NDArray[np.float32]

    def arguments(self) -> tuple[int, NDArray[np.int64], int, int, NDArray[np.float32]]:
        """What the kernels take: x, gradients, buf, z, coefficients."""
        addresses = [gradient.data_ptr() for gradient in self.gradients]
        return (
            address_of(self.layout, self.x),
            np.array(addresses, dtype=np.int64),
            address_of(self.layout, self.buf),
            address_of(self.layout, self.z),
            self.coefficients,
        )

    def __call__(self) -> None:
        if self.x.is_cuda:
            run_on_gpu("update", "update", self.x, self)
            return
        run_segments(kernels.update, self.layout.sizes, *self.arguments())


class OnePassCompressor(Compressor):
    """A compressor whose messages can be read and written entry by entry, in host memory."""

    @abstractmethod
    def turn(
        self,
        layout: Layout,
        messages: Sequence[Message],
        targets: Sequence[torch.Tensor],
        weights: Sequence[Sequence[float]],
        *,
        update: SGDUpdate,
        reference: torch.Tensor,
        message: Message,
    ) -> None:
        """`accumulate` the messages, update(), and `encode` update.x - reference, to the same bits.

        In one pass over the vectors.

        Args:
            message: its payload is none of the messages'.

        Raises:
            NotFiniteError: as `encode`.
        """
