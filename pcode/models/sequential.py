"""Layers one after the other: a multilayer perceptron, logistic regression, LeNet-5 and VGG."""

import math
from typing import Annotated

from torch import nn

from pcode.models.base import DropRate, UnfitInputsError, he_normal, image_shape
from pcode.models.normalization import Normalization, normalization, rectifier
from pcode.utils.options import Option

VGG_WIDTHS = (64, 128, 256, 512, 512)
# Depth -> convolutions of each stage: configurations A, B, D and E.
NUM_CONVOLUTIONS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def mlp(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    mlp_num_layers: Annotated[
        int, Option("linear layers, with the classifier", minimum=1, maximum=1000)
    ] = 2,
    mlp_hidden_size: Annotated[
        int, Option("units of a hidden layer", minimum=1, maximum=65536)
    ] = 128,
    drop_rate: DropRate = 0.0,
) -> nn.Sequential:
    """Linear layers over the flattened sample, with ReLU and dropout between them.

    `mlp_num_layers` counts the linear layers: the last one gives the classes, the others
    `mlp_hidden_size` numbers each. Dropout draws from torch's default generator. Initial values:
    torch's, U(-1 / sqrt(inputs), 1 / sqrt(inputs)).
    """
    if not input_shape:
        raise UnfitInputsError("images or vectors")
    model = nn.Sequential(nn.Flatten())
    num_inputs = math.prod(input_shape)
    for _ in range(mlp_num_layers - 1):
        model.append(nn.Linear(num_inputs, mlp_hidden_size))
        model.append(nn.ReLU(inplace=True))
        model.append(nn.Dropout(drop_rate))
        num_inputs = mlp_hidden_size
    return model.append(nn.Linear(num_inputs, num_classes))


def logistic_regression(input_shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """Make one linear layer over the flattened sample: multinomial logistic regression."""
    return mlp(input_shape, num_classes, mlp_num_layers=1, mlp_hidden_size=1, drop_rate=0.0)


def lenet(input_shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """Chain two 5 x 5 convolutions with pooling and three linear layers.

    On 1 x 28 x 28, which are padded to 32 x 32, it has 61,706 parameters. Initial values: torch's,
    U(-1 / sqrt(inputs), 1 / sqrt(inputs)).

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document
    recognition", Proc. IEEE 86 (1998), section II.B. Differs as is usual by now: ReLU for tanh,
    the maximum of 2 x 2 pixels for their weighted sum, all maps connected in the second
    convolution, a linear layer for the Gaussian one.
    """
    if input_shape[1:] not in ((28, 28), (32, 32)):
        raise UnfitInputsError("images of 28 x 28 or 32 x 32 pixels")
    num_channels, size, _ = input_shape
    return nn.Sequential(
        nn.Conv2d(num_channels, 6, 5, padding=(32 - size) // 2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120),
        nn.ReLU(inplace=True),
        nn.Linear(120, 84),
        nn.ReLU(inplace=True),
        nn.Linear(84, num_classes),
    )


def vgg(
    depth: int,
    input_shape: tuple[int, ...],
    num_classes: int,
    normalization_kind: Normalization = "batch",
) -> nn.Sequential:
    """Five stages of 3 x 3 convolutions, each halving the image, mean over pixels, linear.

    The depth is one of NUM_CONVOLUTIONS. A stage whose image has height or width 1 does not halve
    it. VGG-11 for 3 channels and 10 classes has 9,231,114 parameters.

    Source: Simonyan, Zisserman, "Very deep convolutional networks for large-scale image
    recognition", arXiv 1409.1556, table 1; initial kernels from he_normal. Differs in what small
    images ask for: normalisation after every convolution, and one linear layer, not three.
    """
    num_inputs, height, width = image_shape(input_shape)
    model = nn.Sequential()
    for repeats, num_outputs in zip(NUM_CONVOLUTIONS[depth], VGG_WIDTHS, strict=True):
        for _ in range(repeats):
            model.append(nn.Conv2d(num_inputs, num_outputs, 3, padding=1))
            if normalization_kind != "none":
                model.append(normalization(normalization_kind, num_outputs))
            model.append(rectifier(normalization_kind))
            num_inputs = num_outputs
        if min(height, width) > 1:
            model.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
    model.append(nn.AdaptiveAvgPool2d(1))
    model.append(nn.Flatten())
    model.append(nn.Linear(num_inputs, num_classes))
    he_normal(model)
    return model
