"""A multilayer perceptron."""

from __future__ import annotations

from torch import nn

from pcode.errors import UserError
from pcode.models.base import ModelSpec


def mlp(spec: ModelSpec) -> nn.Sequential:
    """Linear layers over the flattened image, with ReLU and dropout between them.

    `mlp_num_layers` counts the linear layers: the last one gives the classes, the others
    `mlp_hidden_size` numbers each. Dropout draws from torch's default generator.

    Raises:
        UserError: an option is out of its range.
    """
    if spec.mlp_num_layers < 1:
        raise UserError(f"--mlp_num_layers {spec.mlp_num_layers}: at least 1")
    if spec.mlp_hidden_size < 1:
        raise UserError(f"--mlp_hidden_size {spec.mlp_hidden_size}: at least 1")
    if not 0 <= spec.drop_rate < 1:
        raise UserError(f"--drop_rate {spec.drop_rate}: from 0 to below 1")
    model = nn.Sequential(nn.Flatten())
    num_inputs = spec.num_channels * spec.image_size**2
    for _ in range(spec.mlp_num_layers - 1):
        model.append(nn.Linear(num_inputs, spec.mlp_hidden_size))
        model.append(nn.ReLU(inplace=True))
        model.append(nn.Dropout(spec.drop_rate))
        num_inputs = spec.mlp_hidden_size
    return model.append(nn.Linear(num_inputs, spec.num_classes))
