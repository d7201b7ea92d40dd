"""What a model is built from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelSpec:
    """The data's shape and the options of all models; a model reads those that it has.

    Attributes:
        num_channels, image_size: inputs are N x num_channels x image_size x image_size.
        num_classes: outputs are N x num_classes.
        mlp_num_layers, mlp_hidden_size, drop_rate: see mlp.py.
    """

    num_channels: int
    image_size: int
    num_classes: int
    mlp_num_layers: int
    mlp_hidden_size: int
    drop_rate: float
