"""Whether a model can be trained on batches of some shape, found out without computing."""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call


def objection(model: nn.Module, input_shape: tuple[int, ...], batch_size: int) -> str | None:
    """Why the model cannot be trained on such batches of images or vectors; None where it can.

    Shapes alone go through it, on torch's meta device: its parameters stay what they are.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    try:
        functional_call(model, shapes, torch.empty(batch_size, *input_shape, device="meta"))
    except (RuntimeError, AssertionError, ValueError) as error:
        return str(error).splitlines()[0]
    return None
