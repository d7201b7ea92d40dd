"""Residual networks for small images, and wide ones."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import torch
from torch import nn
from torch.nn import functional

from pcode.models.base import DropRate, check_drop_rate, fast_layout, he_normal, image_shape
from pcode.utils.options import Option

WIDTHS = (16, 32, 64)


def residual_stages(
    num_inputs: int,
    widths: Sequence[int],
    num_blocks: int,
    block: Callable[[int, int, int], nn.Module],
) -> nn.Sequential:
    """Chain stages of `num_blocks` blocks each; every stage but the first halves the image.

    `widths` are the channels of each stage's outputs; a block is made from the channels of its
    inputs and of its outputs, and its stride.
    """
    blocks = nn.Sequential()
    for stage, width in enumerate(widths):
        for number in range(num_blocks):
            blocks.append(block(num_inputs, width, 2 if stage > 0 and number == 0 else 1))
            num_inputs = width
    return blocks


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around which the input is added.

    Where the shape changes, the input passes through a 1 x 1 convolution with batch
    normalisation (He et al., section 3.3, option B).
    """

    def __init__(self, num_inputs: int, num_outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_inputs, num_outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_outputs)
        self.conv2 = nn.Conv2d(num_outputs, num_outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or num_inputs != num_outputs:
            self.shortcut.append(nn.Conv2d(num_inputs, num_outputs, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(num_outputs))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = functional.relu(self.bn1(self.conv1(inputs)), inplace=True)
        outputs = self.bn2(self.conv2(outputs)).add_(self.shortcut(inputs))
        return functional.relu(outputs, inplace=True)


class ResNetCifar(nn.Module):
    """ResNet-(6m + 2): a 3 x 3 convolution, three stages of m blocks, mean over pixels, linear.

    Widths 16, 32, 64; the second and the third stage halve the image, which may be of any size.
    ResNet-20 for 3 channels and 10 classes has 272,474 parameters.

    Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", arXiv 1512.03385,
    section 4.2; initial kernels from he_normal. Differs in the shortcuts: option B, there option A.

    Args:
        depth: layers with weights on the longest path, 6m + 2 with m >= 1.
    """

    def __init__(self, depth: int, input_shape: tuple[int, ...], num_classes: int) -> None:
        num_channels, _, _ = image_shape(input_shape)
        super().__init__()
        self.conv = nn.Conv2d(num_channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(WIDTHS[0])
        self.blocks = residual_stages(WIDTHS[0], WIDTHS, (depth - 2) // 6, BasicBlock)
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        he_normal(self)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = functional.relu(self.bn(fast_layout(self.conv(inputs))), inplace=True)
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

    Args:
        depth: 6m + 4 with m >= 1.
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
        check_drop_rate(drop_rate)
        num_channels, _, _ = image_shape(input_shape)
        super().__init__()
        widths = [wideresnet_widen_factor * width for width in WIDTHS]
        self.conv = nn.Conv2d(num_channels, WIDTHS[0], 3, padding=1, bias=False)
        self.blocks = residual_stages(
            WIDTHS[0], widths, (depth - 4) // 6, partial(WideBlock, drop_rate=drop_rate)
        )
        self.bn = nn.BatchNorm2d(widths[-1])
        self.classifier = nn.Linear(widths[-1], num_classes)
        he_normal(self)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.blocks(fast_layout(self.conv(inputs)))
        outputs = functional.relu(self.bn(outputs), inplace=True).mean(dim=(2, 3))
        logits: torch.Tensor = self.classifier(outputs)
        return logits
