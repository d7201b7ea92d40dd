"""What can be said of a model without computing with it."""

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from pcode.models.rnn_lm import Scales

# _NormBase: batch and instance normalisation of any dimension.
NORMALIZATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm, Scales)


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


def shape_error(model: nn.Module, input_shape: tuple[int, ...], batch_size: int) -> str | None:
    """Return why the model cannot be trained on such batches of images or vectors, if so.

    Shapes alone go through it, on torch's meta device: its parameters stay what they are.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    try:
        functional_call(model, shapes, torch.empty(batch_size, *input_shape, device="meta"))
    except (RuntimeError, AssertionError, ValueError) as error:
        return str(error).splitlines()[0]
    return None
