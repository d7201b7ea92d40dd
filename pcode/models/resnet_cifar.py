"""Residual networks for small images."""

import torch
from torch import nn
from torch.nn import functional

from pcode.models.base import fast_layout, he_normal, image_shape, residual_stages

WIDTHS = (16, 32, 64)


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
