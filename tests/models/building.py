"""Models as runs make them, for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pcode.config import make_config
from pcode.models import builder, make_model
from pcode.utils.options import taken_by


def build(
    arch: str, input_shape: tuple[int, ...], num_classes: int = 10, seed: int = 6, **flags: Any
) -> nn.Module:
    """The model with those flags; the others are as they are when none is given."""
    return make_model(arch, input_shape, num_classes, seed, {**make_config().flat(), **flags})


def size(arch: str, input_shape: tuple[int, ...], num_classes: int = 10, **flags: Any) -> int:
    """How many parameters the model has, found without making their values."""
    build_one, given = builder(arch), {**make_config().flat(), **flags}
    with torch.device("meta"):
        model = build_one(input_shape, num_classes, **taken_by(build_one, given))
    return num_parameters(model)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
