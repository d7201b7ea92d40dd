"""Normalisation of the channels of images: by batches, or within a sample."""

from typing import Annotated

import torch
from torch import nn

from pcode.utils.options import Option

# Of unequal labels batch statistics are another node's than the averaged model's; the papers on
# them take two groups (arXiv 2102.04761).
GROUPS = 2
_TEXT = (
    "batch, group (2 groups of channels, within a sample), evonorm (the same with a nonlinearity "
    "of its own), none"
)
Normalization = Annotated[
    str, Option(_TEXT, name="normalization", choices=("batch", "group", "evonorm", "none"))
]


class EvoNormS0(nn.Module):
    """y = x sigmoid(v x) / s * weight + bias, with s the deviation of x over a group of channels.

    It takes the place of a normalisation and the ReLU behind it: N x C x H x W, GROUPS groups.

    Source: Liu, Brock, Simonyan, Le, "Evolving normalization-activation layers", arXiv 2004.02967,
    table 1, with 32 groups there.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.v, self.weight = (nn.Parameter(torch.ones(channels, 1, 1)) for _ in range(2))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        groups = inputs.unflatten(1, (GROUPS, -1))
        # In float32, whatever --amp is: squares of large float16 numbers have no room there.
        variance = groups.float().var(dim=(2, 3, 4), keepdim=True, correction=0)
        scale = (variance + 1e-5).rsqrt().expand(-1, -1, groups.size(2), -1, -1).flatten(1, 2)
        outputs: torch.Tensor = (
            inputs * torch.sigmoid(self.v * inputs) * scale * self.weight + self.bias
        )
        return outputs.to(inputs.dtype)


def normalization(kind: str, channels: int, *, rectified: bool = True) -> nn.Module:
    """Return the layer of that kind; EvoNorm-S0 only where a `rectifier` follows, else groups."""
    if kind == "none":
        return nn.Identity()
    if kind == "evonorm" and rectified:
        return EvoNormS0(channels)
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(GROUPS, channels)


def rectifier(kind: str) -> nn.Module:
    """Return the ReLU behind a normalisation, which EvoNorm-S0 contains."""
    return nn.Identity() if kind == "evonorm" else nn.ReLU(inplace=True)
