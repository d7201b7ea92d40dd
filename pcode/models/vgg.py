"""VGG networks for small images."""

from torch import nn

from pcode.models.base import he_normal, image_shape

WIDTHS = (64, 128, 256, 512, 512)
# Depth -> convolutions of each stage: configurations A, B, D and E.
NUM_CONVOLUTIONS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def vgg(depth: int, input_shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """Five stages of 3 x 3 convolutions, each halving the image, mean over pixels, linear.

    A stage whose image has height or width 1 does not halve it. VGG-11 for 3 channels and 10
    classes has 9,231,114 parameters.

    Source: Simonyan, Zisserman, "Very deep convolutional networks for large-scale image
    recognition", arXiv 1409.1556, table 1; initial kernels from he_normal. Differs in what small
    images ask for: batch normalisation after every convolution, and one linear layer, not three.

    Args:
        depth: one of NUM_CONVOLUTIONS.
    """
    num_inputs, height, width = image_shape(input_shape)
    model = nn.Sequential()
    for repeats, num_outputs in zip(NUM_CONVOLUTIONS[depth], WIDTHS, strict=True):
        for _ in range(repeats):
            model.append(nn.Conv2d(num_inputs, num_outputs, 3, padding=1))
            model.append(nn.BatchNorm2d(num_outputs))
            model.append(nn.ReLU(inplace=True))
            num_inputs = num_outputs
        if min(height, width) > 1:
            model.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
    model.append(nn.AdaptiveAvgPool2d(1))
    model.append(nn.Flatten())
    model.append(nn.Linear(num_inputs, num_classes))
    he_normal(model)
    return model
