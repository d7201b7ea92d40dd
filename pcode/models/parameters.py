"""Which parameters are what."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from pcode.models.rnn_lm import WeightNormLSTM

# _NormBase: batch and instance normalisation of any dimension.
NORMALIZATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def normalization_parameters(model: nn.Module) -> set[str]:
    """The names, as in model.named_parameters(), of scales and shifts of normalisation layers.

    They get no weight decay. The scales g of weight normalisation are such as well.
    """
    scales = {
        f"{prefix}.scales.{index}" if prefix else f"scales.{index}"
        for prefix, module in model.named_modules()
        if isinstance(module, WeightNormLSTM)
        for index in range(len(module.scales))
    }
    return scales | {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, NORMALIZATIONS)
        for name, _ in module.named_parameters(recurse=False)
    }
