"""Models by name.

A new model is one file with a function that builds it and one line in MODELS.
"""

import difflib
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from pcode.models.base import Builder, UnfitInputsError
from pcode.models.from_torchvision import torchvision_model, torchvision_names, torchvision_resnet
from pcode.models.normalization import EvoNormS0
from pcode.models.rnn_lm import RNNLanguageModel, Scales
from pcode.models.sequential import NUM_CONVOLUTIONS, lenet, logistic_regression, mlp, vgg
from pcode.models.shortcuts import DenseNet, ResNetCifar, WideResNet
from pcode.utils.errors import UserError
from pcode.utils.options import options_of, taken_by
from pcode.utils.seeding import derive_seed

__all__ = [
    "MODELS",
    "NAMES",
    "Builder",
    "RNNLanguageModel",
    "builder",
    "builders",
    "make_model",
    "normalization_parameters",
    "task_of",
]

# Families of every depth 4 + m * step, m >= 1, their members named NAMEDEPTH: class and step.
FAMILIES: dict[str, tuple[Builder, int]] = {
    "wideresnet": (WideResNet, 6),
    "densenet": (DenseNet, 3),
}
MODELS: dict[str, Builder] = {
    **{f"resnet{depth}": partial(ResNetCifar, depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{
        name: partial(torchvision_resnet, name)
        for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
    },
    "wideresnet28": partial(WideResNet, 28),
    "densenet": partial(DenseNet, 40),
    # As published for large images; the family has these depths as well.
    **{name: partial(torchvision_model, name) for name in ("densenet121", "densenet169")},
    **{f"vgg{depth}": partial(vgg, depth) for depth in NUM_CONVOLUTIONS},
    "lenet": lenet,
    "mlp": mlp,
    "logistic_regression": logistic_regression,
    "rnn_lm": RNNLanguageModel,
}
# _NormBase: batch and instance normalisation of any dimension.
NORMALIZATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm, EvoNormS0, Scales)
# For help: what `builder` takes.
NAMES = (
    *MODELS,
    *(f"{name}DEPTH ({step}m + 4 layers)" for name, (_, step) in FAMILIES.items()),
    "any model of torchvision for classification",
)


def builder(name: str) -> Builder:
    """Return what builds the model of that name, or raise a UserError with what is like it."""
    if name in MODELS:
        return MODELS[name]
    match = re.fullmatch(rf"({'|'.join(FAMILIES)})([1-9][0-9]{{0,3}})", name)
    if match:
        (family, step), depth = FAMILIES[match[1]], int(match[2])
        if depth > 4 and (depth - 4) % step == 0:
            return partial(family, depth)
    try:
        names = torchvision_names()
    except UserError as error:
        raise UserError(f"--arch {name!r} is not known; {error}") from None
    if name in names:
        return partial(torchvision_model, name)
    near = difflib.get_close_matches(name.lower(), sorted({*MODELS, *names}))
    hint = f"like it: {', '.join(near)}; " if near else ""
    raise UserError(f"--arch {name!r} is not known; {hint}built: {', '.join(NAMES)}")


def builders() -> dict[str, Builder]:
    """Return what builds the models of MODELS and FAMILIES, by name."""
    return MODELS | {f"{name}DEPTH": family for name, (family, _) in FAMILIES.items()}


def task_of(name: str) -> str:
    """Return the task of the model of that name: "classification" unless it says another."""
    return getattr(builder(name), "task", "classification")


def normalization_parameters(model: nn.Module) -> set[str]:
    """Return the names, as in model.named_parameters(), of normalisation's scales and shifts.

    They get no weight decay. The scales g of weight normalisation are such as well.
    """
    return {
        name
        for prefix, module in model.named_modules()
        if isinstance(module, NORMALIZATIONS)
        for name, _ in module.named_parameters(prefix, recurse=False)
    }


def make_model(
    arch: str, input_shape: tuple[int, ...], num_classes: int, seed: int, flags: Mapping[str, Any]
) -> nn.Module:
    """Return the model of that name, on the CPU, with the same initial parameters on every node.

    They are drawn from (seed, "model"), with the run's seed; torch's default generator is left as
    it was. Of all flags of the run the model gets those that it takes.

    Raises:
        UserError: the name is unknown, the model cannot take such samples, or one of its flags is
            out of its range.
    """
    build = builder(arch)
    for name, flag in options_of(build).items():
        if name in flags:
            flag.validate(flags[name])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "model"))
        try:
            return build(input_shape, num_classes, **taken_by(build, flags))
        except UnfitInputsError as unfit:
            samples = " x ".join(map(str, input_shape)) if input_shape else "words"
            raise UserError(
                f"--arch {arch}: takes {unfit}; the samples of this data set are {samples}"
            ) from None
