"""Which kernels a compressor's method calls: the CPU's or the GPU's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from typing import ParamSpec

import torch

Arguments = ParamSpec("Arguments")


def _vector(argument: object) -> torch.Tensor | None:
    """The tensor that an argument is, or that it begins with; None where it is neither."""
    first = argument[0] if isinstance(argument, Sequence) and argument else argument
    return first if isinstance(first, torch.Tensor) else None


def on_gpu(method: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Let a method of a compressor call the GPU's kernels where its vectors lie on a GPU.

    The function of the same name in the module of the same name in `pcode.compression.gpu` gets
    the same arguments, the compressor first. It is imported at the first such call, as no process
    that computes on CPUs needs Triton.
    """
    home = f"pcode.compression.gpu.{method.__module__.rpartition('.')[2]}"

    @wraps(method)
    def dispatched(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        vectors = map(_vector, (*args, *kwargs.values()))
        on_device = next((each for each in vectors if each is not None and each.is_cuda), None)
        if on_device is None:
            return method(*args, **kwargs)
        # Triton launches on the current device.
        with torch.cuda.device_of(on_device):
            getattr(import_module(home), method.__name__)(*args, **kwargs)
        return None

    return dispatched
