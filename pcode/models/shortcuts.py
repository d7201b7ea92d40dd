"""Networks with shortcuts for small images: residual, wide residual and densely connected."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import torch
from torch import nn
from torch.nn import functional

from pcode.models.base import DropRate, fast_layout, he_normal, image_shape
from pcode.models.normalization import Normalization, normalization, rectifier
from pcode.utils.errors import UserError
from pcode.utils.options import Option, needs

WIDTHS = (16, 32, 64)  # of the stages of residual networks
NUM_STAGES = 3  # of DenseNet
BOTTLENECK = 4  # a 1 x 1 convolution gives so many times the growth rate


def residual_stages(
    widths: Sequence[int], num_blocks: int, block: Callable[[int, int, int], nn.Module]
) -> nn.Sequential:
    """Chain stages of `num_blocks` blocks each; every stage but the first halves the image.

    `widths` are the channels of each stage's outputs; a block is made from the channels of its
    inputs and of its outputs, and its stride.
    """
    blocks, num_inputs = nn.Sequential(), WIDTHS[0]
    for stage, width in enumerate(widths):
        for number in range(num_blocks):
            blocks.append(block(num_inputs, width, 2 if stage > 0 and number == 0 else 1))
            num_inputs = width
    return blocks


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around which the input is added.

    Where the shape changes, the input passes through a 1 x 1 convolution with normalisation (He et
    al., section 3.3, option B).
    """

    def __init__(self, num_inputs: int, num_outputs: int, stride: int, kind: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_inputs, num_outputs, 3, stride, padding=1, bias=False)
        self.bn1 = normalization(kind, num_outputs)
        self.conv2 = nn.Conv2d(num_outputs, num_outputs, 3, padding=1, bias=False)
        self.bn2 = normalization(kind, num_outputs, rectified=False)
        self.rectifier = rectifier(kind)
        self.shortcut = nn.Sequential()
        if stride != 1 or num_inputs != num_outputs:
            self.shortcut.append(nn.Conv2d(num_inputs, num_outputs, 1, stride, bias=False))
            self.shortcut.append(normalization(kind, num_outputs, rectified=False))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.rectifier(self.bn1(self.conv1(inputs)))
        outputs = self.bn2(self.conv2(outputs)).add_(self.shortcut(inputs))
        return functional.relu(outputs, inplace=True)


class ResNetCifar(nn.Module):
    """ResNet-(6m + 2): a 3 x 3 convolution, three stages of m blocks, mean over pixels, linear.

    Widths 16, 32, 64; the second and the third stage halve the image, which may be of any size.
    ResNet-20 for 3 channels and 10 classes has 272,474 parameters.

    Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", arXiv 1512.03385,
    section 4.2; initial kernels from he_normal. Differs in the shortcuts: option B, there option A.
    """

    def __init__(
        self,
        depth: int,
        input_shape: tuple[int, ...],
        num_classes: int,
        normalization_kind: Normalization = "batch",
    ) -> None:
        num_channels, _, _ = image_shape(input_shape)
        super().__init__()
        self.conv = nn.Conv2d(num_channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn = normalization(normalization_kind, WIDTHS[0])
        self.rectifier = rectifier(normalization_kind)
        block = partial(BasicBlock, kind=normalization_kind)
        self.blocks = residual_stages(WIDTHS, (depth - 2) // 6, block)
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        he_normal(self)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.rectifier(self.bn(fast_layout(self.conv(inputs))))
        logits: torch.Tensor = self.classifier(self.blocks(outputs).mean(dim=(2, 3)))
        return logits


class WideBlock(nn.Module):
    """Two times normalisation, ReLU and 3 x 3 convolution, around which the input is added.

    Dropout lies between the convolutions. Where the shape changes, what is added is a 1 x 1
    convolution of the normalised, rectified input.
    """

    def __init__(self, num_inputs: int, num_outputs: int, stride: int, drop_rate: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(num_inputs)
        self.conv1 = nn.Conv2d(num_inputs, num_outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_outputs)
        self.dropout = nn.Dropout(drop_rate)
        self.conv2 = nn.Conv2d(num_outputs, num_outputs, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or num_inputs != num_outputs:
            self.shortcut = nn.Conv2d(num_inputs, num_outputs, 1, stride, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rectified = functional.relu(self.bn1(inputs), inplace=True)
        middle = functional.relu(self.bn2(self.conv1(rectified)), inplace=True)
        outputs: torch.Tensor = self.conv2(self.dropout(middle))
        return outputs.add_(inputs if self.shortcut is None else self.shortcut(rectified))


class WideResNet(nn.Module):
    """WRN-(6m + 4)-k: a 3 x 3 convolution, three stages of m blocks, mean over pixels, linear.

    Widths 16k, 32k, 64k; the second and the third stage halve the image, which may be of any size.
    WRN-28-10 for 3 channels and 10 classes has 36.5 M parameters. Dropout draws from torch's
    default generator.

    Source: Zagoruyko, Komodakis, "Wide residual networks", arXiv 1605.07146, section 2; initial
    kernels from he_normal.
    """

    def __init__(
        self,
        depth: int,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        wideresnet_widen_factor: Annotated[
            int, Option("how many times wider than 16, 32, 64 channels", minimum=1, maximum=4096)
        ] = 4,
        drop_rate: DropRate = 0.0,
    ) -> None:
        num_channels, _, _ = image_shape(input_shape)
        super().__init__()
        widths = [wideresnet_widen_factor * width for width in WIDTHS]
        self.conv = nn.Conv2d(num_channels, WIDTHS[0], 3, padding=1, bias=False)
        block = partial(WideBlock, drop_rate=drop_rate)
        self.blocks = residual_stages(widths, (depth - 4) // 6, block)
        self.bn = nn.BatchNorm2d(widths[-1])
        self.classifier = nn.Linear(widths[-1], num_classes)
        he_normal(self)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.blocks(fast_layout(self.conv(inputs)))
        outputs = functional.relu(self.bn(outputs), inplace=True).mean(dim=(2, 3))
        logits: torch.Tensor = self.classifier(outputs)
        return logits


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

    Its depth is 3m + 4, that of the BC form 6m + 4, m >= 1: with 1 x 1 convolutions before the
    3 x 3 ones (B), twice as many channels at the beginning, and compression theta (C).
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
                irrelevant=needs(
                    "densenet_bc_mode", "it has no effect without --densenet_bc_mode True"
                ),
            ),
        ] = 0.5,
        drop_rate: DropRate = 0.0,
    ) -> None:
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
