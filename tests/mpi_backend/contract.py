"""What a backend of torch.distributed has to do, as checks that all ranks call together.

The ranks of world.py do. What is to come out is worked out with NumPy from all ranks' inputs, which
every rank can generate.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

Array = npt.NDArray[np.generic]
CHECKS: dict[str, Callable[[], None]] = {}
MPI_ONLY: set[str] = set()  # gloo does not offer what they check
PARTS = [
    "tests.mpi_backend.collectives",
    "tests.mpi_backend.messages",
    "tests.mpi_backend.training",
]

INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64]
UNSIGNED = [torch.uint16, torch.uint32, torch.uint64]
FLOATS = [torch.float32, torch.float64]
# What is narrower than float32, and the dtype in which its sums are made.
HALVES = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float8_e4m3fn: torch.float32,
    torch.float8_e5m2: torch.float32,
    torch.complex32: torch.complex64,
}
COMPLEX = [torch.complex64, torch.complex128]
COPIED = [*INTEGERS, *UNSIGNED, *FLOATS, *HALVES, *COMPLEX, torch.bool]
FOLDS: dict[str, Callable[[Array, Array], Array]] = {
    "SUM": np.add,
    "PRODUCT": np.multiply,
    "MIN": np.minimum,
    "MAX": np.maximum,
    "BAND": np.bitwise_and,
    "BOR": np.bitwise_or,
    "BXOR": np.bitwise_xor,
}


def check(function: Callable[[], None]) -> Callable[[], None]:
    """Register a check."""
    CHECKS[function.__name__] = function
    return function


def mpi_only(function: Callable[[], None]) -> Callable[[], None]:
    """Register a check of what gloo does not offer."""
    MPI_ONLY.add(function.__name__)
    return check(function)


def on_mpi() -> bool:
    """Whether the backend under test is ours."""
    return "mpi" in dist.get_backend()


def values(rank: int, shape: tuple[int, ...], dtype: torch.dtype, salt: int = 0) -> torch.Tensor:
    """Small integers, so that no order of operations rounds; 1 to 3, signs where there are any."""
    draw = torch.randint(1, 4, shape, generator=torch.Generator().manual_seed(97 * salt + rank))
    if dtype == torch.bool:
        return draw == 1
    if dtype.is_signed:
        draw = draw * (1 - 2 * (draw % 2))
    if dtype.is_complex:
        return torch.complex(draw.double(), draw.flip(0).double()).to(dtype)
    return draw.to(dtype)


def raw(tensor: torch.Tensor) -> bytes:
    """The bytes of the values, for any dtype."""
    return bytes(tensor.contiguous().view(-1).view(torch.uint8).tolist())


def folded(name: str, arrays: list[Array]) -> Array:
    """The reduction of the ranks' arrays by NumPy."""
    return functools.reduce(FOLDS[name], arrays)


def each(shape: tuple[int, ...], dtype: torch.dtype, salt: int = 0) -> list[torch.Tensor]:
    """All ranks' values."""
    return [values(rank, shape, dtype, salt) for rank in range(dist.get_world_size())]


def names(backend: str) -> list[str]:
    """The checks for a backend, in the order in which they run."""
    for part in PARTS:
        importlib.import_module(part)
    return [name for name in CHECKS if backend == "mpi" or name not in MPI_ONLY]
