"""Vectors and payloads as the CPU kernels take them: arrays, and addresses of arrays."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numba import carray, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from pcode.compression.kernels.cpu.cache import kernel

# Entries that a kernel takes at a time: so few that they stay in the first-level cache (4 KiB a
# vector) while one plain loop after another passes over them.
BLOCK = 1024
_ZEROS = np.zeros(BLOCK, dtype=np.float32)


def reference_of(reference: torch.Tensor | None) -> tuple[NDArray[np.float32], int]:
    """A reference as an array, and the step in it from one entry to the next.

    No reference is a block of zeros that are read again and again: v - 0 has the bits of v.
    """
    return (_ZEROS, 0) if reference is None else (reference.detach().numpy(), 1)


def addresses_of(tensors: Iterable[torch.Tensor]) -> NDArray[np.int64]:
    """Where tensors lie: kernels that take any number of arrays take them by their addresses."""
    return np.array([tensor.data_ptr() for tensor in tensors], dtype=np.int64)


def _pointer_to(item: types.Type) -> Any:
    pointer = types.CPointer(item)

    @intrinsic
    def pointer_to(_typing: Any, _address: Any) -> Any:
        def emit(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(pointer))

        return pointer(types.int64), emit

    return pointer_to


_to_float, _to_byte, _to_word = map(_pointer_to, (types.float32, types.uint8, types.int64))


@kernel
def floats_at(address: int, size: int) -> NDArray[np.float32]:
    """The float32 array of that size at an address."""
    found: NDArray[np.float32] = carray(_to_float(address), size)
    return found


@kernel
def bytes_at(address: int, size: int) -> NDArray[np.uint8]:
    """The uint8 array of that size at an address."""
    found: NDArray[np.uint8] = carray(_to_byte(address), size)
    return found


@kernel
def load_word(address: int) -> int:
    """The 8 bytes at an address as a number."""
    found: int = carray(_to_word(address), 1)[0]
    return found


@kernel
def store_word(address: int, word: int) -> None:
    """Write a number as the 8 bytes at an address."""
    carray(_to_word(address), 1)[0] = word
