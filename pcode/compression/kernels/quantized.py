"""Lanes of small integers: drawn, rounded to, and packed at 1, 2, 4, 8 or 16 bits in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types

from pcode.compression.kernels.lanes import (
    ADDRESS,
    COUNT,
    DOUBLES,
    FLOATS,
    INTS,
    LANES,
    load_first_of,
    load_of,
    operation,
    store_first_of,
    store_of,
)

# Bits of a magnitude.
WIDTHS = (1, 2, 4, 8, 16)
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


def _element(bits: int) -> ir.VectorType:
    """What memory holds of sixteen integers of so many bits."""
    width = max(bits, 8)
    return _integers(width, LANES * bits // width)


def _store_packed(emit_of: Callable[[ir.Type], Any]) -> Callable[..., None]:
    """The store for every width, among which the program chooses by its first argument."""

    def emit(builder: ir.IRBuilder, bits: ir.Value, *values: ir.Value) -> None:
        end = builder.append_basic_block("stored")
        switch = builder.switch(bits, end)
        for width in WIDTHS:
            block = builder.append_basic_block(f"store_{width}")
            switch.add_case(bits.type(width), block)
            builder.position_at_end(block)
            emit_of(_element(width))(builder, *values[:-1], _pack(builder, values[-1], width))
            builder.branch(end)
        builder.position_at_end(end)

    return emit


def _load_packed(emit_of: Callable[[ir.Type], Any]) -> Callable[..., ir.Value]:
    """As `_store_packed`; another width than these reads as zeros."""

    def emit(builder: ir.IRBuilder, bits: ir.Value, *values: ir.Value) -> ir.Value:
        end = builder.append_basic_block("loaded")
        loaded = [(_all(_INTS, 0), builder.block)]
        switch = builder.switch(bits, end)
        for width in WIDTHS:
            block = builder.append_basic_block(f"load_{width}")
            switch.add_case(bits.type(width), block)
            builder.position_at_end(block)
            ints = _unpack(builder, emit_of(_element(width))(builder, *values), width)
            loaded.append((ints, builder.block))
            builder.branch(end)
        builder.position_at_end(end)
        result = builder.phi(_INTS)
        for ints, block in loaded:
            result.add_incoming(ints, block)
        return result

    return emit


# Sixteen non-negative integers in 2 * bits bytes of memory, the first in the lowest bits; bits is
# one of WIDTHS. The `_first` variants touch only the first `num_bytes`; lanes beyond them read as
# 0.
load_packed = operation("load_packed", INTS, (COUNT, ADDRESS), _load_packed(load_of))
store_packed = operation(
    "store_packed", types.void, (COUNT, ADDRESS, INTS), _store_packed(store_of)
)
load_packed_first = operation(
    "load_packed_first", INTS, (COUNT, ADDRESS, COUNT), _load_packed(load_first_of)
)
store_packed_first = operation(
    "store_packed_first", types.void, (COUNT, ADDRESS, COUNT, INTS), _store_packed(store_first_of)
)
