"""Vectors of sixteen numbers, in memory and in registers, for kernels compiled by Numba.

LLVM maps the sixteen lanes to whatever width the processor has, so that a kernel written with
them gives the same bits on every machine: the order of the additions is in the program, nothing
is reordered, and no multiplication is merged with an addition. Memory is named by its address,
which needs no alignment; bits and bytes are in little-endian order.

The functions below can only be called inside a `kernel`. There, FLOATS are sixteen float32,
DOUBLES sixteen float64, INTS sixteen int32 and a MASK sixteen truth values, which memory holds as
sixteen bits.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any, TypeVar, cast

from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from pcode.compression.kernels import cache

LANES = 16
FLOATS_BYTES = 4 * LANES
MASK_BYTES = LANES // 8

_FLOAT, _DOUBLE, _BIT, _BYTE, _INT32, _INT64 = (
    ir.FloatType(),
    ir.DoubleType(),
    *(ir.IntType(bits) for bits in (1, 8, 32, 64)),
)
_FLOATS, _DOUBLES, _MASK, _INTS = (
    ir.VectorType(element, LANES) for element in (_FLOAT, _DOUBLE, _BIT, _INT32)
)
_PACKED_MASK = ir.IntType(LANES)

Function = TypeVar("Function", bound=Callable[..., Any])
Operation = Callable[..., Any]


def kernel(function: Function) -> Function:
    """Compile with Numba at the first call; the kernel runs without the interpreter lock.

    It is kept for later runs, which takes a function that encloses nothing.
    """
    with cache.kept() as can_keep:
        return cast(Function, njit(nogil=True, error_model="numpy", cache=can_keep)(function))


class _Lanes(types.Type):  # type: ignore[misc]  # Numba has no types
    """The Numba type of an LLVM vector."""

    def __init__(self, name: str, vector: ir.VectorType) -> None:
        super().__init__(name=name)
        self.vector = vector


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, lanes: _Lanes) -> None:
        super().__init__(manager, lanes, lanes.vector)


FLOATS, DOUBLES, MASK, INTS = (
    _Lanes("floats", _FLOATS),
    _Lanes("doubles", _DOUBLES),
    _Lanes("mask", _MASK),
    _Lanes("ints", _INTS),
)
ADDRESS = COUNT = types.int64


def operation(
    name: str, result: types.Type, arguments: tuple[types.Type, ...], emit: Callable[..., Any]
) -> Operation:
    """A function for kernels: `emit(builder, *values)` writes its instructions."""

    def define(_typing: Any, *_arguments: types.Type) -> tuple[Any, Callable[..., Any]]:
        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
            made = emit(builder, *values)
            return context.get_dummy_value() if result is types.void else made

        return result(*arguments), generate

    define.__name__ = name
    # Numba binds a call's arguments by name and cannot do so for a variable number of them.
    names = ["typing", *(f"argument_{index}" for index in range(len(arguments)))]
    define.__signature__ = Signature(  # type: ignore[attr-defined]
        [Parameter(each, Parameter.POSITIONAL_OR_KEYWORD) for each in names]
    )
    return cast(Operation, intrinsic(define))


def _pointer(builder: ir.IRBuilder, address: ir.Value, element: ir.Type) -> ir.Value:
    return builder.inttoptr(address, element.as_pointer())


def load_of(element: ir.Type) -> Callable[..., ir.Value]:
    return lambda builder, address: builder.load(_pointer(builder, address, element), align=1)


def store_of(element: ir.Type) -> Callable[..., ir.Value]:
    return lambda builder, address, value: builder.store(
        value, _pointer(builder, address, element), align=1
    )


def load_first_of(element: ir.Type) -> Callable[..., ir.Value]:
    def emit(builder: ir.IRBuilder, address: ir.Value, num_bytes: ir.Value) -> ir.Value:
        place = cgutils.alloca_once(builder, element)
        builder.store(ir.Constant(element, None), place)
        cgutils.raw_memcpy(builder, place, _pointer(builder, address, _BYTE), num_bytes, 1)
        return builder.load(place)

    return emit


def store_first_of(element: ir.Type) -> Callable[..., None]:
    def emit(
        builder: ir.IRBuilder, address: ir.Value, num_bytes: ir.Value, value: ir.Value
    ) -> None:
        place = cgutils.alloca_once(builder, element)
        builder.store(value, place)
        cgutils.raw_memcpy(builder, _pointer(builder, address, _BYTE), place, num_bytes, 1)

    return emit


def _unpack(emit: Callable[..., ir.Value]) -> Callable[..., ir.Value]:
    return lambda builder, *values: builder.bitcast(emit(builder, *values), _MASK)


def _pack(emit: Callable[..., ir.Value]) -> Callable[..., ir.Value]:
    return lambda builder, *values: emit(
        builder, *values[:-1], builder.bitcast(values[-1], _PACKED_MASK)
    )


def _store_selected(builder: ir.IRBuilder, address: ir.Value, mask: ir.Value, a: ir.Value) -> None:
    suffix = {_FLOATS: "f32", _INTS: "i32"}[a.type]
    place = _pointer(builder, address, a.type.element)
    function = ir.FunctionType(ir.VoidType(), [a.type, place.type, _MASK])
    name = f"llvm.masked.compressstore.v{LANES}{suffix}"
    builder.call(cgutils.get_or_insert_function(builder.module, function, name), [a, place, mask])


def _count(builder: ir.IRBuilder, mask: ir.Value) -> ir.Value:
    return builder.zext(builder.ctpop(builder.bitcast(mask, _PACKED_MASK)), _INT64)


def _prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    place = _pointer(builder, address, _BYTE)
    function = ir.FunctionType(ir.VoidType(), [place.type, _INT32, _INT32, _INT32])
    # To be read, to be kept in all caches, data.
    hints = [_INT32(0), _INT32(3), _INT32(1)]
    prefetch = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
    builder.call(prefetch, [place, *hints])


def _magnitude_bits(builder: ir.IRBuilder, floats: ir.Value) -> ir.Value:
    all_but_sign = ir.Constant(_INTS, [0x7FFFFFFF] * LANES)
    return builder.and_(builder.bitcast(floats, _INTS), all_but_sign)


def _absolute(builder: ir.IRBuilder, floats: ir.Value) -> ir.Value:
    return builder.bitcast(_magnitude_bits(builder, floats), _FLOATS)


def _broadcast(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
    undefined = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    first = builder.insert_element(undefined, number, _INT32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_INTS, [0] * LANES))


def _larger(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.icmp_signed(">", a, b), a, b)


def _largest(builder: ir.IRBuilder, ints: ir.Value) -> ir.Value:
    found = builder.extract_element(ints, _INT32(0))
    for lane in range(1, LANES):
        found = _larger(builder, found, builder.extract_element(ints, _INT32(lane)))
    return found


def _total(builder: ir.IRBuilder, doubles: ir.Value) -> ir.Value:
    sums = [builder.extract_element(doubles, _INT32(lane)) for lane in range(LANES)]
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [builder.fadd(sums[lane], sums[lane + half]) for lane in range(half)]
    return sums[0]


def _zero(element: ir.VectorType) -> ir.Constant:
    return ir.Constant(element, None)


# Memory. The `_first` variants touch only the first `num_bytes`; lanes beyond them read as 0.
load_float = operation("load_float", types.float32, (ADDRESS,), load_of(_FLOAT))
store_float = operation("store_float", types.void, (ADDRESS, types.float32), store_of(_FLOAT))
# Has the line of the address fetched, which need not be readable, and does not wait for it.
prefetch = operation("prefetch", types.void, (ADDRESS,), _prefetch)
load = operation("load", FLOATS, (ADDRESS,), load_of(_FLOATS))
store = operation("store", types.void, (ADDRESS, FLOATS), store_of(_FLOATS))
load_first = operation("load_first", FLOATS, (ADDRESS, COUNT), load_first_of(_FLOATS))
store_first = operation(
    "store_first", types.void, (ADDRESS, COUNT, FLOATS), store_first_of(_FLOATS)
)
load_mask = operation("load_mask", MASK, (ADDRESS,), _unpack(load_of(_PACKED_MASK)))
store_mask = operation("store_mask", types.void, (ADDRESS, MASK), _pack(store_of(_PACKED_MASK)))
load_mask_first = operation(
    "load_mask_first", MASK, (ADDRESS, COUNT), _unpack(load_first_of(_PACKED_MASK))
)
store_mask_first = operation(
    "store_mask_first", types.void, (ADDRESS, COUNT, MASK), _pack(store_first_of(_PACKED_MASK))
)

# Registers.
zero_doubles = operation("zero_doubles", DOUBLES, (), lambda builder: _zero(_DOUBLES))
broadcast = operation("broadcast", FLOATS, (types.float32,), _broadcast)
add = operation("add", FLOATS, (FLOATS, FLOATS), lambda builder, a, b: builder.fadd(a, b))
subtract = operation("subtract", FLOATS, (FLOATS, FLOATS), lambda builder, a, b: builder.fsub(a, b))
multiply = operation("multiply", FLOATS, (FLOATS, FLOATS), lambda builder, a, b: builder.fmul(a, b))
negate = operation("negate", FLOATS, (FLOATS,), lambda builder, a: builder.fneg(a))
absolute = operation("absolute", FLOATS, (FLOATS,), _absolute)
# Ordered: neither -0.0 nor NaN is below zero.
is_below_zero = operation(
    "is_below_zero",
    MASK,
    (FLOATS,),
    lambda builder, a: builder.fcmp_ordered("<", a, _zero(_FLOATS)),
)
select = operation(
    "select", FLOATS, (MASK, FLOATS, FLOATS), lambda builder, mask, a, b: builder.select(mask, a, b)
)
# sums + |a|, lane by lane, in float64.
add_magnitudes = operation(
    "add_magnitudes",
    DOUBLES,
    (DOUBLES, FLOATS),
    lambda builder, sums, a: builder.fadd(sums, builder.fpext(_absolute(builder, a), _DOUBLES)),
)
# The sum of the sixteen lanes, by halves.
total = operation("total", types.float64, (DOUBLES,), _total)

# Memory: the selected lanes, side by side; nothing beyond them is written.
store_selected = operation("store_selected", types.void, (ADDRESS, MASK, FLOATS), _store_selected)
store_selected_ints = operation(
    "store_selected_ints", types.void, (ADDRESS, MASK, INTS), _store_selected
)
load_ints = operation("load_ints", INTS, (ADDRESS,), load_of(_INTS))
# Memory: words of 64 bits.
load_word = operation("load_word", types.int64, (ADDRESS,), load_of(_INT64))
store_word = operation("store_word", types.void, (ADDRESS, types.int64), store_of(_INT64))
load_word_first = operation("load_word_first", types.int64, (ADDRESS, COUNT), load_first_of(_INT64))
store_word_first = operation(
    "store_word_first", types.void, (ADDRESS, COUNT, types.int64), store_first_of(_INT64)
)

# Registers.
count = operation("count", types.int64, (MASK,), _count)
ones = operation("ones", types.int64, (types.int64,), lambda builder, word: builder.ctpop(word))
# Of a word that is not 0.
trailing_zeros = operation(
    "trailing_zeros", types.int64, (types.int64,), lambda builder, word: builder.cttz(word, _BIT(1))
)
broadcast_int = operation("broadcast_int", INTS, (types.int32,), _broadcast)
lane_numbers = operation(
    "lane_numbers", INTS, (), lambda builder: ir.Constant(_INTS, list(range(LANES)))
)
add_ints = operation("add_ints", INTS, (INTS, INTS), lambda builder, a, b: builder.add(a, b))
is_at_least = operation(
    "is_at_least", MASK, (INTS, INTS), lambda builder, a, b: builder.icmp_signed(">=", a, b)
)
larger = operation("larger", INTS, (INTS, INTS), _larger)
largest = operation("largest", types.int32, (INTS,), _largest)
# The bits of |a|, whose order as integers is that of the magnitudes; NaN comes after infinity.
magnitude_bits = operation("magnitude_bits", INTS, (FLOATS,), _magnitude_bits)
