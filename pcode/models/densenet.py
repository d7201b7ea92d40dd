"""Densely connected networks for small images."""

from typing import Annotated

import torch
from torch import nn

from pcode.models.base import DropRate, check_drop_rate, fast_layout, he_normal, image_shape
from pcode.utils.errors import UserError
from pcode.utils.options import Option

NUM_STAGES = 3
BOTTLENECK = 4  # a 1 x 1 convolution gives so many times the growth rate


def _convolution(num_inputs: int, num_outputs: int, size: int, drop_rate: float) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(num_inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(num_inputs, num_outputs, size, padding=size // 2, bias=False),
        nn.Dropout(drop_rate),
    )


class DenseLayer(nn.Module):
    """The inputs, and behind them `growth_rate` channels that are made of them."""

    def __init__(
        self, num_inputs: int, growth_rate: int, bottleneck: bool, drop_rate: float
    ) -> None:
        super().__init__()
        self.new = nn.Sequential()
        if bottleneck:
            self.new.append(_convolution(num_inputs, BOTTLENECK * growth_rate, 1, drop_rate))
            num_inputs = BOTTLENECK * growth_rate
        self.new.append(_convolution(num_inputs, growth_rate, 3, drop_rate))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([inputs, self.new(inputs)], dim=1)


class DenseNet(nn.Module):
    """A 3 x 3 convolution, three stages of dense layers, mean over pixels, linear.

    A convolution and a mean over 2 x 2 pixels lie between two stages. Dropout follows every
    convolution but the first, and draws from torch's default generator. DenseNet-BC-100 with
    growth rate 12, for 3 channels and 10 classes, has 769,162 parameters.

    Source: Huang, Liu, van der Maaten, Weinberger, "Densely connected convolutional networks",
    arXiv 1608.06993, sections 3 and 4.2; initial kernels from he_normal.

    Args:
        depth: 3m + 4 with m >= 1, for the BC form 6m + 4.
        densenet_growth_rate: k.
        densenet_bc_mode: 1 x 1 convolutions before the 3 x 3 ones (B), twice as many channels at
            the beginning, and compression (C).
        densenet_compression: theta.
    """

    def __init__(
        self,
        depth: int,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        densenet_growth_rate: Annotated[
            int, Option("channels that a layer adds", minimum=1, maximum=65536)
        ] = 12,
        densenet_bc_mode: Annotated[
            bool, Option("bottleneck layers, and fewer channels after each block")
        ] = False,
        densenet_compression: Annotated[
            float,
            Option(
                "share of the channels that remains after a block, with densenet_bc_mode",
                irrelevant=lambda flags: (
                    None
                    if flags["densenet_bc_mode"]
                    else "it has no effect without --densenet_bc_mode True"
                ),
            ),
        ] = 0.5,
        drop_rate: DropRate = 0.0,
    ) -> None:
        check_drop_rate(drop_rate)
        num_layers = (depth - 4) // NUM_STAGES
        if densenet_bc_mode and num_layers % 2:
            raise UserError(
                f"--densenet_bc_mode True: its depths are 10, 16, 22, ... (6m + 4), not {depth}"
            )
        # A narrower share leaves no channel of the few that a stage may have.
        if densenet_bc_mode and not 0.1 <= densenet_compression <= 1:
            raise UserError(f"--densenet_compression {densenet_compression}: from 0.1 to 1")
        num_channels, _, _ = image_shape(input_shape, smallest=2 ** (NUM_STAGES - 1))
        super().__init__()
        growth_rate, width, compression = densenet_growth_rate, 16, 1.0
        if densenet_bc_mode:
            num_layers, width, compression = num_layers // 2, 2 * growth_rate, densenet_compression
        self.conv = nn.Conv2d(num_channels, width, 3, padding=1, bias=False)
        self.stages = nn.Sequential()
        for stage in range(NUM_STAGES):
            if stage > 0:
                compressed = int(width * compression)
                self.stages.append(_convolution(width, compressed, 1, drop_rate))
                self.stages.append(nn.AvgPool2d(2))
                width = compressed
            for _ in range(num_layers):
                self.stages.append(DenseLayer(width, growth_rate, densenet_bc_mode, drop_rate))
                width += growth_rate
        self.last = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(width, num_classes)
        he_normal(self)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.stages(fast_layout(self.conv(inputs)))
        logits: torch.Tensor = self.classifier(self.last(outputs).mean(dim=(2, 3)))
        return logits
