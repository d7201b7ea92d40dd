"""A model's update and its products with factors in one pass over memory, on CPUs."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch

from pcode.compression.kernels.cpu.blocks import add_scaled
from pcode.compression.kernels.cpu.cache import kernel
from pcode.compression.kernels.cpu.memory import BLOCK, Doubles, Floats, Ints, block_at, floats_at
from pcode.compression.kernels.cpu.parallel import run
from pcode.optim.low_rank import LEFT, RIGHT, WHOLE, LowRank, Mix
from pcode.optim.sgd_update import SGDUpdate, update_block

# Entries of a matrix that a thread takes at a time: so many that the sums over its rows, which are
# written for each such piece, are few beside them.
SEGMENT_ENTRIES = 1 << 18
# Rows of a block that are multiplied together from the left, while their sums are at hand.
GROUP = 4
# Columns of them, which stay in the first-level cache until then.
CHUNK = 4 * BLOCK
# A vector that sticks out of the span of those before it by no more than this is rounding.
SMALLEST_SHARE = 1e-4
_NO_ADDRESSES, _NO_COEFFICIENTS = np.zeros(0, np.int64), np.zeros((0, 5), np.float32)


class Pieces(NamedTuple):
    """How threads take a model in even or odd rounds.

    Attributes:
        tensors: num_tensors x 6: offset in the vector, rows, columns, kind, place and other place.
        segments: num_segments x 4: a tensor's number, its first row and their number (of a tensor
            that goes whole, entries), and where its sums over rows begin for one vector.
        num_sums: numbers of the sums over rows for one vector.
    """

    tensors: Ints
    segments: Ints
    num_sums: int


class Vectors(NamedTuple):
    """Where what a `Mix` holds lies, and its shape."""

    basis: int
    difference: int
    new_basis: int
    messages: int
    rank: int
    width: int


@lru_cache(maxsize=16)
def _pieces(low_rank: LowRank, is_odd: int) -> Pieces:
    sides = low_rank.sides(is_odd)
    offsets = np.array(low_rank.layout.offsets, dtype=np.int64)
    segments, num_sums = [], 0
    for tensor, (rows, columns, kind) in enumerate(
        zip(sides.rows.tolist(), sides.columns.tolist(), sides.kinds.tolist(), strict=True)
    ):
        length = columns if kind == WHOLE else rows
        step = SEGMENT_ENTRIES if kind == WHOLE else max(1, SEGMENT_ENTRIES // columns)
        for start in range(0, length, step):
            segments.append((tensor, start, min(step, length - start), num_sums))
            num_sums += columns if kind == LEFT else 0
    table = np.stack([offsets, sides.rows, sides.columns, sides.kinds, sides.places, sides.others])
    rows_of_segments = np.array(segments, dtype=np.int64).reshape(-1, 4)
    return Pieces(np.ascontiguousarray(table.T), rows_of_segments, num_sums)


@partial(kernel, fastmath={"reassoc"})
def _product(a: Floats, b: Floats) -> float:
    """Return the inner product, summed in the order that suits the processor."""
    total = np.float32(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return float(total)


@kernel
def _long_product(a: Floats, b: Floats) -> float:
    """Return the inner product, block by block: of long vectors float32 would lose digits."""
    total = 0.0
    for begin in range(0, a.size, BLOCK):
        total += _product(a[begin : begin + BLOCK], b[begin : begin + BLOCK])
    return total


@kernel
def _add_rows(target: Floats, x: int, row_bytes: int, factors: Floats) -> None:
    """target += sum_i factors[i] * row i of a block, where rows lie so many bytes apart."""
    if factors.size == GROUP:
        f0, f1, f2, f3 = factors[0], factors[1], factors[2], factors[3]
        a, b = floats_at(x, target.size), floats_at(x + row_bytes, target.size)
        c = floats_at(x + 2 * row_bytes, target.size)
        d = floats_at(x + 3 * row_bytes, target.size)
        for i in range(target.size):
            target[i] += (f0 * a[i] + f1 * b[i]) + (f2 * c[i] + f3 * d[i])
        return
    for row in range(factors.size):
        add_scaled(target, floats_at(x + row * row_bytes, target.size), factors[row])


@kernel
def _mix(change: Floats, at: Vectors, weights: Floats, piece: Ints, i: int, j: int) -> None:
    """Set change to what a block of row i, from column j on, is to change by."""
    _, rows, columns, kind, place, other = piece
    change[:] = 0
    for edge in range(weights.size):
        of_place, of_other = 4 * (edge * at.width + place), 4 * (edge * at.width + other)
        if kind == WHOLE:
            sent = floats_at(at.difference + of_other + 4 * j, change.size)
            add_scaled(change, sent, weights[edge])
            continue
        for k in range(at.rank):
            if kind == LEFT:
                left = at.difference + of_other + 4 * (k * rows + i)
                right = at.basis + of_place + 4 * (k * columns + j)
            else:
                left = at.basis + of_place + 4 * (k * rows + i)
                right = at.difference + of_other + 4 * (k * columns + j)
            scale = np.float32(weights[edge] * floats_at(left, 1)[0])
            add_scaled(change, floats_at(right, change.size), scale)


@kernel
def _change(
    at: Vectors,
    weights: Floats,
    mixes: bool,
    x: int,
    gradients: Ints,
    buf: int,
    coefficients: Floats,
    pieces: Pieces,
    tensor: int,
    i: int,
    begin: int,
    end: int,
    room: Floats,
) -> None:
    """Mix and update columns of row i of a tensor.

    Args:
        coefficients: none where there is no local step.
        room: a block of zeros where it does not mix.
    """
    piece, steps = pieces.tensors[tensor], coefficients.shape[0] > 0
    offset, _, columns, _, _, _ = piece
    for j in range(begin, end, BLOCK):
        size, entry = min(BLOCK, end - j), i * columns + j
        change = room[:size]
        if mixes:
            _mix(change, at, weights, piece, i, j)
        block = block_at(x + 4 * (offset + entry), size)
        if steps:
            update_block(
                block,
                block_at(gradients[tensor] + 4 * entry, size),
                block_at(buf + 4 * (offset + entry), size),
                change,
                coefficients[tensor],
            )
        elif mixes:
            add_scaled(block, change, np.float32(1))


@kernel
def _multiply_right(block: Floats, at: Vectors, piece: Ints, j: int, totals: Doubles) -> None:
    """Add the products of a row's columns, from j on, to totals, edges x rank."""
    _, _, columns, _, _, other = piece
    for edge in range(totals.shape[0]):
        for k in range(at.rank):
            factors = at.new_basis + 4 * (edge * at.width + other + k * columns + j)
            totals[edge, k] += _product(block, floats_at(factors, block.size))


@kernel
def _multiply_left(
    sums: Floats,
    x: int,
    at: Vectors,
    piece: Ints,
    edge: int,
    i: int,
    count: int,
    begin: int,
    end: int,
) -> None:
    """Add the products of columns of rows, from i on, to an edge's sums: rank x columns."""
    offset, rows, columns, _, _, other = piece
    block = x + 4 * (offset + i * columns + begin)
    for k in range(at.rank):
        factors = at.new_basis + 4 * (edge * at.width + other + k * rows + i)
        target = sums[k * columns + begin : k * columns + end]
        _add_rows(target, block, 4 * columns, floats_at(factors, count))


@kernel
def _pass(
    at: Vectors,
    weights: Floats,
    mixes: bool,
    sends: bool,
    x: int,
    gradients: Ints,
    buf: int,
    coefficients: Floats,
    pieces: Pieces,
    sums: Floats,
    first: int,
    last: int,
) -> None:
    """Change x, and multiply what has changed while it is in the first-level cache."""
    step = x, gradients, buf, coefficients
    room, totals = np.zeros(BLOCK, np.float32), np.empty((weights.size, at.rank))
    for segment in range(first, last):
        tensor, start, count, place_of_sums = pieces.segments[segment]
        piece = pieces.tensors[tensor]
        offset, rows, columns, kind, place, _ = piece
        row, end_row, begin, end = start, start + count, 0, columns
        if kind == WHOLE:
            row, end_row, begin, end = 0, 1, start, start + count
        size, group = at.rank * columns, GROUP if kind == LEFT else 1
        own = sums[weights.size * at.rank * place_of_sums :]
        if sends and kind == LEFT:
            own[: weights.size * size] = 0
        for i in range(row, end_row, group):
            num_rows = min(group, end_row - i)
            totals[:] = 0
            for j in range(begin, end, CHUNK):
                stop = min(j + CHUNK, end)
                for each in range(i, i + num_rows):
                    _change(at, weights, mixes, *step, pieces, tensor, each, j, stop, room)
                if sends and kind == LEFT:
                    for edge in range(weights.size):
                        of_edge = own[edge * size : (edge + 1) * size]
                        _multiply_left(of_edge, x, at, piece, edge, i, num_rows, j, stop)
                elif sends and kind == RIGHT:
                    block = floats_at(x + 4 * (offset + i * columns + j), stop - j)
                    _multiply_right(block, at, piece, j, totals)
            if sends and kind == RIGHT:
                for edge in range(weights.size):
                    for k in range(at.rank):
                        to = at.messages + 4 * (edge * at.width + place + k * rows + i)
                        floats_at(to, 1)[0] = totals[edge, k]


@kernel
def _write_sums(at: Vectors, num_edges: int, x: int, pieces: Pieces, sums: Floats) -> None:
    """Write products from the left, their sums over the rows of all segments in order, and what
    goes whole.
    """
    for segment in range(len(pieces.segments)):
        tensor, start, count, place_of_sums = pieces.segments[segment]
        offset, _, columns, kind, place, _ = pieces.tensors[tensor]
        size = at.rank * columns
        for edge in range(num_edges):
            message = at.messages + 4 * (edge * at.width + place)
            if kind == WHOLE:
                sent = floats_at(x + 4 * (offset + start), count)
                floats_at(message + 4 * start, count)[:] = sent
            elif kind == LEFT:
                to = floats_at(message, size)
                begin = num_edges * at.rank * place_of_sums + edge * size
                if start == 0:
                    to[:] = 0
                add_scaled(to, sums[begin : begin + size], np.float32(1))


@kernel
def _orthonormalise(
    factors: int, fresh: int, num_edges: int, rank: int, width: int, tensors: Ints
) -> None:
    """Of each edge and matrix, by Gram and Schmidt, each vector against those before it twice."""
    for tensor in range(len(tensors)):
        _, rows, columns, kind, _, place = tensors[tensor]
        if kind == WHOLE:
            continue
        size = rows if kind == LEFT else columns
        for edge in range(num_edges):
            base = factors + 4 * (edge * width + place)
            for k in range(rank):
                vector = floats_at(base + 4 * k * size, size)
                before = _long_product(vector, vector)
                for attempt in range(3):
                    for other in range(k):
                        against = floats_at(base + 4 * other * size, size)
                        share = _long_product(vector, against)
                        add_scaled(vector, against, np.float32(-share))
                    after = _long_product(vector, vector)
                    if attempt == 0 and not after > SMALLEST_SHARE**2 * before:
                        vector[:] = floats_at(fresh + 4 * (place + k * size), size)
                    elif attempt > 0:
                        break
                scale = 1 / np.sqrt(after)
                for i in range(size):
                    vector[i] = np.float32(vector[i] * scale)


def orthonormalise(
    low_rank: LowRank, round_number: int, factors: torch.Tensor, start: torch.Tensor
) -> None:
    """Do as `batched.orthonormalise`."""
    tensors = _pieces(low_rank, round_number % 2).tensors
    num_edges, width = factors.shape
    fresh = start[(round_number + 1) % 2]
    addresses = factors.data_ptr(), fresh.data_ptr()
    _orthonormalise(*addresses, num_edges, low_rank.rank, width, tensors)


def pass_over(
    low_rank: LowRank, round_number: int, x: torch.Tensor, mix: Mix, update: SGDUpdate | None
) -> None:
    """Do as `batched.pass_over`, with a local step before, if any, in the same pass."""
    pieces, num_edges = _pieces(low_rank, round_number % 2), len(mix.messages)
    at = Vectors(
        mix.basis.data_ptr(),
        mix.difference.data_ptr(),
        mix.new_basis.data_ptr(),
        mix.messages.data_ptr(),
        low_rank.rank,
        low_rank.width,
    )
    x_address, gradients, buf, _, coefficients = (
        (x.data_ptr(), _NO_ADDRESSES, 0, 0, _NO_COEFFICIENTS)
        if update is None
        else update.arguments()
    )
    sums = np.empty(low_rank.rank * num_edges * pieces.num_sums, np.float32)
    step = x_address, gradients, buf, coefficients
    arguments = at, mix.weights.numpy(), mix.mixes, mix.sends, *step, pieces, sums
    run(_pass, len(pieces.segments), *arguments)
    if mix.sends:
        _write_sums(at, num_edges, x.data_ptr(), pieces, sums)
