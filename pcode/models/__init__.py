"""Models by name.

A new model is one file with a function of ModelSpec and one line in MODELS.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from pcode.models.base import ModelSpec
from pcode.models.mlp import mlp
from pcode.models.parameters import normalization_parameters
from pcode.models.resnet_cifar import resnet_cifar
from pcode.registry import look_up
from pcode.seeding import derive_seed

__all__ = ["MODELS", "ModelSpec", "make_model", "normalization_parameters"]

MODELS: dict[str, Callable[[ModelSpec], nn.Module]] = {
    **{f"resnet{depth}": partial(resnet_cifar, depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    "mlp": mlp,
}
PLANNED = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "wideresnet28",
    "densenet",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "lenet",
    "logistic_regression",
    "rnn_lm",
)


def make_model(
    arch: str,
    num_channels: int,
    image_size: int,
    num_classes: int,
    seed: int,
    *,
    mlp_num_layers: int = 2,
    mlp_hidden_size: int = 128,
    drop_rate: float = 0.0,
) -> nn.Module:
    """The model of that name, on the CPU, with the same initial parameters on every node.

    They are drawn from (seed, "model"); torch's default generator is left as it was.

    Args:
        arch: a name in MODELS.
        num_channels, image_size: inputs are N x num_channels x image_size x image_size.
        num_classes: outputs are N x num_classes.
        seed: the run's seed.
        mlp_num_layers, mlp_hidden_size, drop_rate: options of some models.

    Raises:
        UserError: the name is unknown or not built yet, or an option is out of its range.
    """
    spec = ModelSpec(
        num_channels, image_size, num_classes, mlp_num_layers, mlp_hidden_size, drop_rate
    )
    build = look_up("arch", arch, MODELS, PLANNED)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "model"))
        return build(spec)
