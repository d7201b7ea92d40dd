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


def run_on_gpu(
    module: str, name: str, vector: torch.Tensor, *args: object, **kwargs: object
) -> None:
    """Call a function of a module of `pcode.compression.gpu` for vectors on the GPU of this one.

    It is imported at the first such call, as no process that computes on CPUs needs Triton.
    """
    # Triton launches on the current device.
    with torch.cuda.device_of(vector):
        getattr(import_module(f"pcode.compression.gpu.{module}"), name)(*args, **kwargs)


def on_gpu(method: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Let a method of a compressor call the GPU's kernels where its vectors lie on a GPU.

    The function of the same name in the module of the same name in `pcode.compression.gpu` gets
    the same arguments, the compressor first.
    """
    module = method.__module__.rpartition(".")[2]

    @wraps(method)
    def dispatched(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        vectors = map(_vector, (*args, *kwargs.values()))
        on_device = next((each for each in vectors if each is not None and each.is_cuda), None)
        if on_device is None:
            return method(*args, **kwargs)
        return run_on_gpu(module, method.__name__, on_device, *args, **kwargs)

    return dispatched
