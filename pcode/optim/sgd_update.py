"""The local step of SGD and the mixing of x in one pass over the vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pcode.compression.kernels.cpu.cache import kernel
from pcode.compression.kernels.cpu.memory import addresses_of, floats_at
from pcode.compression.kernels.cpu.parallel import run_segments
from pcode.utils.layout import Layout

# Columns of the coefficients.
LR, WEIGHT_DECAY, MOMENTUM, NESTEROV, GAMMA = range(5)


@dataclass(frozen=True)
class SGDUpdate:
    """d = g + wd x ; buf = m buf + d ; nesterov: d += m buf, else d = buf ; x += gamma z - lr d.

    An entry of x depends on the same entry of the others only.

    Attributes:
        layout: of the vectors.
        x, buf, z: flat contiguous float32 vectors; x and buf are changed.
        gradients: of each tensor, contiguous float32.
        coefficients: float32, a row for each tensor: lr, wd, m, nesterov (0 or 1), gamma.
    """

    layout: Layout
    x: torch.Tensor
    buf: torch.Tensor
    z: torch.Tensor
    gradients: Sequence[torch.Tensor]
    coefficients: NDArray[np.float32]

    def arguments(
        self,
    ) -> tuple[
        NDArray[np.float32],
        NDArray[np.int64],
        NDArray[np.float32],
        NDArray[np.float32],
        NDArray[np.float32],
    ]:
        """What the CPU's kernels take: x, the gradients' addresses, buf, z, coefficients."""
        return (
            self.x.detach().numpy(),
            addresses_of(self.gradients),
            self.buf.numpy(),
            self.z.numpy(),
            self.coefficients,
        )

    def __call__(self) -> None:
        if self.x.is_cuda:
            with torch.cuda.device_of(self.x):
                self.on_gpu()
        else:
            run_segments(_update, self.layout.sizes, *self.arguments())

    def on_gpu(self) -> None:
        """Launch the kernel on the current GPU."""
        # No process that computes on CPUs needs Triton.
        from pcode.optim.sgd_update_triton import update  # noqa: PLC0415

        update(
            self.layout,
            self.x,
            self.gradients,
            self.buf,
            self.z,
            self.coefficients,
            LR=LR,
            WEIGHT_DECAY=WEIGHT_DECAY,
            MOMENTUM=MOMENTUM,
            NESTEROV=NESTEROV,
            GAMMA=GAMMA,
        )


@kernel
def update_block(
    x: NDArray[np.float32],
    gradient: NDArray[np.float32],
    buf: NDArray[np.float32],
    z: NDArray[np.float32],
    coefficients: NDArray[np.float32],
) -> None:
    """The update of entries of a tensor, whose coefficients these are."""
    lr, decay = coefficients[LR], coefficients[WEIGHT_DECAY]
    momentum, gamma = coefficients[MOMENTUM], coefficients[GAMMA]
    nesterov = coefficients[NESTEROV] != 0
    for i in range(x.size):
        direction = gradient[i] + decay * x[i]
        velocity = momentum * buf[i] + direction
        step = direction + momentum * velocity if nesterov else velocity
        buf[i] = velocity
        x[i] = x[i] - lr * step + gamma * z[i]


@kernel
def _update(
    x: NDArray[np.float32],
    gradients: NDArray[np.int64],
    buf: NDArray[np.float32],
    z: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    segments: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    for segment in range(first, last):
        tensor, offset, start, size = segments[segment]
        begin, end = offset + start, offset + start + size
        update_block(
            x[begin:end],
            floats_at(gradients[tensor] + 4 * start, size),
            buf[begin:end],
            z[begin:end],
            coefficients[tensor],
        )
