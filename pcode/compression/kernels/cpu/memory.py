"""Vectors and payloads as the CPU kernels take them: by their addresses.

A view of an array would have its references counted at every block.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from pcode.compression.base import Difference, WeightedSum
from pcode.compression.kernels.cpu.cache import kernel

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Words = NDArray[np.uint32]

# Entries that a kernel takes at a time: so few that they stay in the first-level cache (512 bytes a
# vector) while one plain loop after another passes over them, and that the processor computes on a
# block while it still fetches the next. With 256, and with instructions that fetch ahead, a step of
# CHOCO with sign took up to a half longer on Zen 3.
BLOCK = 128
# How far ahead of the entry that is used others are prefetched, where memory has them in no order.
AHEAD = 32
_ZEROS = np.zeros(BLOCK, np.float32)  # no tensor: see utils.devices.use_memory_well


class Addresses(NamedTuple):
    """Where value and reference of a difference lie.

    Attributes:
        stride: the step from one entry of the reference to the next: 1, or 0 where there is none
            and a block of zeros is read again and again: v - 0 has the bits of v.
    """

    value: int
    reference: int
    stride: int


def addresses_of(difference: Difference) -> Addresses:
    value, reference = difference
    if reference is None:
        return Addresses(value.data_ptr(), _ZEROS.ctypes.data, 0)
    return Addresses(value.data_ptr(), reference.data_ptr(), 1)


def addresses_in(tensors: Iterable[torch.Tensor]) -> Ints:
    """Return where tensors lie, for kernels that take any number of them."""
    return np.array([tensor.data_ptr() for tensor in tensors], dtype=np.int64)


def addresses_of_sum(added: WeightedSum) -> tuple[Ints, Ints, Floats]:
    """Return where the targets and the payloads lie, and the weights."""
    payloads = addresses_in(message.payload for message in added.messages)
    return addresses_in(added.targets), payloads, added.weights


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
def floats_at(address: int, size: int) -> Floats:
    """Return the float32 array of that size at an address."""
    found: Floats = carray(_to_float(address), size)
    return found


@kernel
def bytes_at(address: int, size: int) -> Bytes:
    """Return the uint8 array of that size at an address."""
    found: Bytes = carray(_to_byte(address), size)
    return found


@kernel
def load_word(address: int) -> int:
    """Return the 8 bytes at an address as a number."""
    found: int = carray(_to_word(address), 1)[0]
    return found


@kernel
def store_word(address: int, word: int) -> None:
    """Write a number as the 8 bytes at an address."""
    carray(_to_word(address), 1)[0] = word


@intrinsic
def prefetch(_typing: Any, _address: Any) -> Any:
    """Have the line of an address fetched, which need not be readable, and do not wait for it."""

    def emit(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # To be read, to stay in all caches, data.
        hints = number(0), number(3), number(1)
        builder.call(function, [builder.inttoptr(arguments[0], byte), *hints])
        return context.get_dummy_value()

    return types.void(types.int64), emit
