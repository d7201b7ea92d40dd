"""LeNet-5."""

from torch import nn

from pcode.models.base import UnfitInputsError


def lenet(input_shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """Two 5 x 5 convolutions with pooling, three linear layers; 61,706 parameters on 1 x 28 x 28.

    Images of 28 x 28 pixels are padded to 32 x 32. Initial values: torch's,
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
