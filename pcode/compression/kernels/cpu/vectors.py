"""Bits from entries and to entries, which LLVM makes slow vector code of where they are loops.

A word holds the bits of WORD entries, the first in the lowest bit.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

WORD = 64
_INT, _WORD = ir.IntType(32), ir.IntType(WORD)
_INTS, _FLOATS = ir.VectorType(_INT, 32), ir.VectorType(ir.FloatType(), 32)


@intrinsic
def bits_below_zero(_typing: Any, _address: Any) -> Any:
    """Return a bit for each of the WORD float32 numbers at an address: 1 where it is below 0.

    -0.0 and NaN are not.
    """
    kind = ir.VectorType(ir.FloatType(), WORD)

    def emit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        (address,) = arguments
        numbers = builder.load(builder.inttoptr(address, kind.as_pointer()), align=4)
        below = builder.fcmp_ordered("<", numbers, ir.Constant(kind, [0.0] * WORD))
        return builder.bitcast(below, _WORD)

    return types.int64(types.int64), emit


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
        places = builder.inttoptr(address, _FLOATS.as_pointer())
        # By halves, so that all of one fits into the registers.
        for half in range(2):
            bits = spread(builder, builder.trunc(builder.lshr(word, _WORD(32 * half)), _INT))
            # A number is negated by the highest of its bits.
            shifted = builder.shl(bits, ir.Constant(_INTS, [31 - bit for bit in range(32)]))
            signs = builder.and_(shifted, ir.Constant(_INTS, [1 << 31] * 32))
            signed = builder.bitcast(builder.xor(signs, magnitude), _FLOATS)
            place = builder.gep(places, [_INT(half)])
            builder.store(builder.fadd(builder.load(place, align=4), signed), place, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32), emit
