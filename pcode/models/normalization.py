"""Normalisation of the channels of images: by batches, or within a sample."""

from typing import Annotated

from torch import nn

from pcode.utils.options import Option

# Of unequal labels batch statistics are another node's than the averaged model's; the papers on
# them take two groups (arXiv 2102.04761).
GROUPS = 2
_TEXT = "batch, group (2 groups of channels, within a sample), none"
Normalization = Annotated[
    str, Option(_TEXT, name="normalization", choices=("batch", "group", "none"))
]


def normalization(kind: str, channels: int) -> nn.Module:
    """Return the layer of that kind."""
    if kind == "none":
        return nn.Identity()
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(GROUPS, channels)
