"""The local step of SGD and the mixing of x in one pass over the vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pcode.compression.kernels.cpu.cache import kernel
from pcode.compression.kernels.cpu.memory import Floats, Ints, addresses_in, floats_at
from pcode.compression.kernels.cpu.parallel import run_segments
from pcode.utils.errors import UserError
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
    coefficients: Floats

    def arguments(self) -> tuple[int, Ints, int, int, Floats]:
        """Return what the CPU's kernels take: addresses of x, gradients, buf, z; coefficients."""
        x, buf, z = (vector.data_ptr() for vector in (self.x, self.buf, self.z))
        return x, addresses_in(self.gradients), buf, z, self.coefficients

    def __call__(self) -> None:
        if self.x.device.type == "cpu":
            run_segments(_update, self.layout.sizes, *self.arguments())
        elif self.x.is_cuda:
            with torch.cuda.device_of(self.x):
                self.on_gpu()
        else:
            raise UserError(f"SGD has no kernel for device {self.x.device}; use cpu or cuda")

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
def update_block(x: Floats, gradient: Floats, buf: Floats, z: Floats, coefficients: Floats) -> None:
    """Update entries of a tensor, whose coefficients these are."""
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
    x: int,
    gradients: Ints,
    buf: int,
    z: int,
    coefficients: Floats,
    segments: Ints,
    first: int,
    last: int,
) -> None:
    for segment in range(first, last):
        tensor, offset, start, size = segments[segment]
        begin = 4 * (offset + start)
        update_block(
            floats_at(x + begin, size),
            floats_at(gradients[tensor] + 4 * start, size),
            floats_at(buf + begin, size),
            floats_at(z + begin, size),
            coefficients[tensor],
        )
