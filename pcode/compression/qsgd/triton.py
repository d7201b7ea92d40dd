"""GPU kernels of the quantizing compressor, which describes the message."""

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl

from pcode.compression.base import Difference, Message, WeightedSum
from pcode.compression.kernels.gpu.accumulate import add_entries
from pcode.compression.kernels.gpu.blocks import (
    difference_of_segment,
    floats_at,
    packed,
    rows_of,
    signed,
    store_signs,
    store_sum,
    sum_of_tensor,
    word_of,
)
from pcode.compression.kernels.gpu.launch import (
    check_alignment,
    launch,
    launch_on_segments,
    segments_of,
    signed_key,
)
from pcode.compression.qsgd.places import LARGEST_NORM, errors_of, places_of
from pcode.utils.layout import Layout


@triton.jit
def _sum_squares(
    value: tl.tensor,
    reference: tl.tensor,
    sums: tl.tensor,
    segments: tl.tensor,
    ALIGNMENT: tl.constexpr,
    ENTRIES: tl.constexpr,
) -> None:
    _, _, _, _, result = difference_of_segment(value, reference, segments, ALIGNMENT, ENTRIES)
    wide = result.to(tl.float64)
    store_sum(sums, segments, wide * wide)


@triton.jit
def _write_scales(
    payload: tl.tensor,
    factors: tl.tensor,
    errors: tl.tensor,
    firsts: tl.tensor,
    sums: tl.tensor,
    LARGEST: tl.constexpr,
    BITS: tl.constexpr,
) -> None:
    """Write the scale of each tensor, and two factors whose product is (2^BITS - 1) / norm.

    The first factor is a power of two that brings the norm near 1.
    """
    tensor = tl.program_id(0)
    norm = tl.sqrt(sum_of_tensor(firsts, sums))
    # Infinity and NaN stay what they are, and so end in all that is decoded.
    is_too_large = (norm > LARGEST) & (norm < float("inf"))
    norm = tl.where(is_too_large, tl.full([], LARGEST, tl.float64), norm)
    steps = tl.full([], (1 << BITS) - 1, tl.float64)
    scales = floats_at(payload)
    tl.store(scales + tensor, (norm / steps / tl.load(errors + tensor)).to(tl.float32))
    # The exponent of norm = m 2^e, m in [.5, 1), is the one in its bits less 1022.
    exponent = 1022 - ((norm.to(tl.int64, bitcast=True) >> 52) & 0x7FF)
    exponent = tl.minimum(tl.maximum(exponent, -126), 127)
    power = ((exponent + 1023) << 52).to(tl.float64, bitcast=True)
    rest = tl.where(norm > 0, steps / (norm * power), norm)
    tl.store(factors + 2 * tensor, power.to(tl.float32))
    tl.store(factors + 2 * tensor + 1, rest.to(tl.float32))


@triton.jit(do_not_specialize=["key"])
def _encode(
    value: tl.tensor,
    reference: tl.tensor,
    payload: tl.tensor,
    places: tl.tensor,
    factors: tl.tensor,
    key: tl.tensor,
    segments: tl.tensor,
    ALIGNMENT: tl.constexpr,
    BITS: tl.constexpr,
    ENTRIES: tl.constexpr,
) -> None:
    tensor, _, start, size, result = difference_of_segment(
        value, reference, segments, ALIGNMENT, ENTRIES
    )
    _, _, entries = rows_of(ENTRIES)
    store_signs(payload + tl.load(places + 2 * tensor) + start // 8, result, size, ENTRIES)

    power, scale = tl.load(factors + 2 * tensor), tl.load(factors + 2 * tensor + 1)
    scaled = tl.abs(result) * power * scale
    x = (start + entries).to(tl.uint32) + word_of(key, 2 * tensor)
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = ((x ^ (x >> 15)) ^ word_of(key, 2 * tensor + 1)) * 0x846CA68B
    draws = ((x ^ (x >> 16)) >> 1).to(tl.int32)
    whole = scaled.to(tl.int32)
    limits = ((scaled - whole.to(tl.float32)) * 2147483648.0).to(tl.int32)
    rounded = tl.minimum(whole + (draws < limits).to(tl.int32), (1 << BITS) - 1)

    to = payload + tl.load(places + 2 * tensor + 1) + start * BITS // 8
    if BITS < 8:
        # Rows of eight entries become BITS rows of as many entries as a byte has room for.
        A_BYTE: tl.constexpr = 8 // BITS
        found = tl.reshape(rounded, (ENTRIES // A_BYTE, A_BYTE))
        in_rows = tl.arange(0, ENTRIES // A_BYTE)[:, None]
        magnitudes = packed(found, tl.arange(0, A_BYTE)[None, :], BITS)
        tl.store(to + in_rows, magnitudes, mask=A_BYTE * in_rows < size)
    else:
        for byte in tl.static_range(BITS // 8):
            part = (rounded >> (8 * byte)).to(tl.uint8)
            tl.store(to + entries * (BITS // 8) + byte, part, mask=entries < size)


@triton.jit
def _decode(
    payload: tl.tensor,
    places: tl.tensor,
    tensor: tl.tensor,
    first: tl.tensor,
    start: tl.tensor,
    size: tl.tensor,
    BITS: tl.constexpr,
    ENTRIES: tl.constexpr,
) -> Any:
    rows, columns, entries = rows_of(ENTRIES)
    found = payload + tl.load(places + 2 * tensor + 1) + start * BITS // 8
    if BITS < 8:
        # The BITS bytes of a row's eight entries, each read once.
        row = tl.zeros_like(rows)
        for number in tl.static_range(BITS):
            at = rows * BITS + number
            byte = tl.load(found + at, mask=8 * at < size * BITS, other=0)
            row |= byte.to(tl.int32) << (8 * number)
        integers = (row >> (columns * BITS)) & ((1 << BITS) - 1)
    else:
        integers = tl.zeros_like(entries)
        for number in tl.static_range(BITS // 8):
            at = found + entries * (BITS // 8) + number
            integers += tl.load(at, mask=entries < size, other=0).to(tl.int32) << (8 * number)
    decoded = tl.load(floats_at(payload) + tensor) * integers.to(tl.float32)
    return signed(decoded, payload + tl.load(places + 2 * tensor) + start // 8, size, ENTRIES)


@lru_cache(maxsize=64)
def _places(sizes: tuple[int, ...], level: int, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(places_of(sizes, level)).to(device)


@lru_cache(maxsize=64)
def _divisors(
    sizes: tuple[int, ...], level: int, is_biased: bool, device: torch.device
) -> torch.Tensor:
    """Return what the scale of each tensor is divided by."""
    errors = torch.from_numpy(errors_of(sizes, level)).to(device)
    return 1 + errors if is_biased else torch.ones_like(errors)


def encode(
    layout: Layout, difference: Difference, message: Message, level: int, is_biased: bool
) -> None:
    """Pass over the vectors twice, as on a CPU."""
    check_alignment([message])
    device = difference.value.device
    segments = segments_of(layout.sizes, device)
    sums = torch.empty(segments.num_programs, dtype=torch.float64, device=device)
    launch_on_segments(_sum_squares, segments, *difference, sums)
    factors = torch.empty(layout.num_tensors, 2, device=device)
    launch(
        _write_scales,
        layout.num_tensors,
        message.payload,
        factors,
        _divisors(layout.sizes, level, is_biased, device),
        segments.firsts,
        sums,
        LARGEST=LARGEST_NORM,
        BITS=level,
    )
    launch_on_segments(
        _encode,
        segments,
        *difference,
        message.payload,
        _places(layout.sizes, level, device),
        factors,
        signed_key(message),
        BITS=level,
    )


def accumulate(layout: Layout, added: WeightedSum, level: int, is_biased: bool) -> None:
    places = _places(layout.sizes, level, added.targets[0].device)
    add_entries(_decode, places, layout, added, level)
