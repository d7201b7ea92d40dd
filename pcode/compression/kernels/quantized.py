"""Lanes of small integers: drawn, rounded to, and packed at 1, 2, 4, 8 or 16 bits in memory."""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types

from pcode.compression.kernels.lanes import (
    ADDRESS,
    COUNT,
    DOUBLES,
    FLOATS,
    INTS,
    LANES,
    Operation,
    load_first_of,
    load_of,
    operation,
    store_first_of,
    store_of,
)

_INTS, _FLOATS, _DOUBLES = (each.vector for each in (INTS, FLOATS, DOUBLES))


def _integers(bits: int, lanes: int) -> ir.VectorType:
    return ir.VectorType(ir.IntType(bits), lanes)


def _all(vector: ir.VectorType, number: float) -> ir.Constant:
    return ir.Constant(vector, [number] * vector.count)


def _draw(builder: ir.IRBuilder, counters: ir.Value, before: ir.Value, between: ir.Value) -> Any:
    def mix(x: ir.Value, shift: int) -> ir.Value:
        return builder.xor(x, builder.lshr(x, _all(_INTS, shift)))

    x = builder.mul(mix(builder.add(counters, before), 16), _all(_INTS, 0x7FEB352D))
    x = builder.mul(builder.xor(mix(x, 15), between), _all(_INTS, 0x846CA68B))
    return builder.lshr(mix(x, 16), _all(_INTS, 1))


def _round(builder: ir.IRBuilder, a: ir.Value, draws: ir.Value, most: ir.Value) -> Any:
    whole = builder.fptosi(a, _INTS)
    fraction = builder.fsub(a, builder.sitofp(whole, _FLOATS))
    limits = builder.fptosi(builder.fmul(fraction, _all(_FLOATS, 2.0**31)), _INTS)
    up = builder.zext(builder.icmp_signed("<", draws, limits), _INTS)
    rounded = builder.add(whole, up)
    return builder.select(builder.icmp_signed("<", rounded, most), rounded, most)


def _pack(builder: ir.IRBuilder, ints: ir.Value, bits: int) -> Any:
    lanes = LANES
    while bits < 8:
        lanes //= 2
        # Two neighbours lie in one word of 64 bits: the upper one moves down to the lower.
        pairs = builder.bitcast(ints, _integers(64, lanes))
        moved = builder.lshr(pairs, _all(pairs.type, 32 - bits))
        ints = builder.trunc(builder.or_(pairs, moved), _integers(32, lanes))
        bits *= 2
    return builder.trunc(ints, _integers(bits, lanes))


def _unpack(builder: ir.IRBuilder, packed: ir.Value, bits: int) -> Any:
    lanes, width = packed.type.count, packed.type.element.width
    ints = builder.zext(packed, _integers(32, lanes))
    while width > bits:
        width //= 2
        pairs = builder.zext(ints, _integers(64, lanes))
        lower = builder.and_(pairs, _all(pairs.type, (1 << width) - 1))
        upper = builder.shl(builder.lshr(pairs, _all(pairs.type, width)), _all(pairs.type, 32))
        lanes *= 2
        ints = builder.bitcast(builder.or_(lower, upper), _integers(32, lanes))
    return ints


def _add_squares(builder: ir.IRBuilder, sums: ir.Value, a: ir.Value) -> Any:
    wide = builder.fpext(a, _DOUBLES)
    return builder.fadd(sums, builder.fmul(wide, wide))


# 31 uniform bits for each counter: `lowbias32` of C. Wellons ("Prospecting for Hash Functions"),
# with a word of the key added before it and another one put between its halves.
draw = operation("draw", INTS, (INTS, INTS, INTS), _draw)
# A non-negative a rounded down, or up with the probability of its fraction, and at most `most`.
# Draws of 31 bits decide; whole part and fraction are apart, so that no sum is rounded.
round_randomly = operation("round_randomly", INTS, (FLOATS, INTS, INTS), _round)
to_floats = operation("to_floats", FLOATS, (INTS,), lambda builder, a: builder.sitofp(a, _FLOATS))
# sums + a * a, lane by lane, in float64.
add_squares = operation("add_squares", DOUBLES, (DOUBLES, FLOATS), _add_squares)


class PackedMemory(NamedTuple):
    """Sixteen non-negative integers in 2 * bits bytes of memory, the first in the lowest bits.

    The `_first` variants touch only the first `num_bytes`; lanes beyond them read as 0.
    """

    load: Operation
    store: Operation
    load_first: Operation
    store_first: Operation


def packed_memory(bits: int) -> PackedMemory:
    """Memory that holds integers at so many bits: 1, 2, 4, 8 or 16."""
    width = max(bits, 8)
    element = _integers(width, LANES * bits // width)

    def packing(emit: Any) -> Any:
        return lambda builder, *values: emit(
            builder, *values[:-1], _pack(builder, values[-1], bits)
        )

    def unpacking(emit: Any) -> Any:
        return lambda builder, *values: _unpack(builder, emit(builder, *values), bits)

    return PackedMemory(
        operation("load_packed", INTS, (ADDRESS,), unpacking(load_of(element))),
        operation("store_packed", types.void, (ADDRESS, INTS), packing(store_of(element))),
        operation("load_packed_first", INTS, (ADDRESS, COUNT), unpacking(load_first_of(element))),
        operation(
            "store_packed_first",
            types.void,
            (ADDRESS, COUNT, INTS),
            packing(store_first_of(element)),
        ),
    )
