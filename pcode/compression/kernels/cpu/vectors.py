"""Bits from entries and to entries, which LLVM makes slow vector code of where they are loops.

A word holds the bits of WORD entries, the first in the lowest bit.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

WORD = 64
# A segment's sum is one of as many sums, of every sixteenth entry.
LANES = 16
_INT, _WORD = ir.IntType(32), ir.IntType(WORD)
_INTS, _HALF = ir.VectorType(_INT, 32), ir.VectorType(ir.FloatType(), 32)
_NUMBERS, _SUMS = ir.VectorType(ir.FloatType(), WORD), ir.VectorType(ir.DoubleType(), LANES)


def _below_zero(builder: Any, numbers: Any) -> Any:
    below = builder.fcmp_ordered("<", numbers, ir.Constant(_NUMBERS, [0.0] * WORD))
    return builder.bitcast(below, _WORD)


def _numbers_at(builder: Any, address: Any) -> Any:
    return builder.load(builder.inttoptr(address, _NUMBERS.as_pointer()), align=4)


@intrinsic
def bits_below_zero(_typing: Any, _address: Any) -> Any:
    """Return a bit for each of the WORD float32 numbers at an address: 1 where it is below 0.

    -0.0 and NaN are not.
    """

    def emit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return _below_zero(builder, _numbers_at(builder, *arguments))

    return types.int64(types.int64), emit


@intrinsic
def compare(_typing: Any, _value: Any, _reference: Any, _sums: Any) -> Any:
    """Do `bits_below_zero` of the differences of WORD entries, and sum up their magnitudes.

    Args:
        _value, _reference: where the entries lie.
        _sums: where the LANES sums lie: the magnitude at i is added to that of i % LANES, one
            after the other.
    """
    kind = ir.FunctionType(_NUMBERS, [_NUMBERS])

    def emit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        value, reference, sums = arguments
        difference = builder.fsub(_numbers_at(builder, value), _numbers_at(builder, reference))
        magnitude = cgutils.get_or_insert_function(builder.module, kind, "llvm.fabs.v64f32")
        magnitudes = builder.call(magnitude, [difference])
        place = builder.inttoptr(sums, _SUMS.as_pointer())
        total = builder.load(place, align=8)
        for first in range(0, WORD, LANES):
            lanes = ir.Constant(ir.VectorType(_INT, LANES), [*range(first, first + LANES)])
            row = builder.shuffle_vector(magnitudes, magnitudes, lanes)
            total = builder.fadd(total, builder.fpext(row, _SUMS))
        builder.store(total, place, align=8)
        return _below_zero(builder, difference)

    return types.int64(types.int64, types.int64, types.int64), emit


@intrinsic
def add_signed(_typing: Any, _address: Any, _word: Any, _addend: Any) -> Any:
    """Add to each of the WORD float32 numbers at an address, or subtract where its bit is 1.

    Args:
        _address, _word, _addend: where they lie, their bits, and the float32 to be added.
    """

    def spread(builder: Any, number: Any) -> Any:
        nothing = ir.Constant(_INTS, ir.Undefined)
        first = builder.insert_element(nothing, number, _INT(0))
        return builder.shuffle_vector(first, nothing, ir.Constant(_INTS, [0] * _INTS.count))

    def emit(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        address, word, addend = arguments
        magnitude = spread(builder, builder.bitcast(addend, _INT))
        places = builder.inttoptr(address, _HALF.as_pointer())
        # By halves, so that all of one fits into the registers.
        for half in range(2):
            bits = spread(builder, builder.trunc(builder.lshr(word, _WORD(32 * half)), _INT))
            # A number is negated by the highest of its bits.
            shifted = builder.shl(bits, ir.Constant(_INTS, [31 - bit for bit in range(32)]))
            signs = builder.and_(shifted, ir.Constant(_INTS, [1 << 31] * 32))
            signed = builder.bitcast(builder.xor(signs, magnitude), _HALF)
            place = builder.gep(places, [_INT(half)])
            builder.store(builder.fadd(builder.load(place, align=4), signed), place, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32), emit
