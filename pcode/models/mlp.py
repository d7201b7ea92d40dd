"""Linear layers alone: a multilayer perceptron, and logistic regression."""

import math
from typing import Annotated

from torch import nn

from pcode.models.base import DropRate, UnfitInputsError, check_drop_rate
from pcode.utils.options import Option


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
    check_drop_rate(drop_rate)
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
    """One linear layer over the flattened sample: multinomial logistic regression."""
    return mlp(input_shape, num_classes, mlp_num_layers=1, mlp_hidden_size=1, drop_rate=0.0)
