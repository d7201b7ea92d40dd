"""The GPU that is measured, and its clock."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch


def require_gpu() -> None:
    """End the program where there is no GPU."""
    if not torch.cuda.is_available():
        print("benchmarks: this machine has no GPU that torch can use", file=sys.stderr)
        sys.exit(2)


def gpu() -> torch.device:
    """This process's GPU, the first as a rule."""
    return torch.device("cuda", torch.cuda.current_device())


def gpu_name() -> str:
    return torch.cuda.get_device_name(gpu())


def timed(call: Callable[[], object], times: int) -> float:
    """Seconds that the GPU takes for so many calls, from when it is free."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(times):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3
