"""A model's update and its products with factors in one pass over memory, on CPUs."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch

from pcode.compression.kernels.cpu.blocks import add_scaled
from pcode.compression.kernels.cpu.cache import kernel
from pcode.compression.kernels.cpu.memory import Doubles, Floats, Ints, floats_at
from pcode.compression.kernels.cpu.parallel import run_shares
from pcode.optim.local import LocalStep
from pcode.optim.low_rank import LEFT, RIGHT, SMALLEST_SHARE, WHOLE, LowRank, Mix
from pcode.optim.sgd_update import update_block

# Entries that a thread takes at a time.
SEGMENT_ENTRIES = 1 << 18
# Columns of a piece that is multiplied from the left: few enough for GROUP rows of them to stay in
# the first-level cache, and for so many rows that their sums are few beside them.
STRIP = 1024
# Rows that are multiplied together from the left, while their sums are at hand.
GROUP = 4
_NO_ADDRESSES, _NO_COEFFICIENTS = np.zeros(0, np.int64), np.zeros((0, 5), np.float32)


class Pieces(NamedTuple):
    """How threads take a model in even or odd rounds.

    Attributes:
        tensors: num_tensors x 6: offset in the vector, rows, columns, kind, place and other place.
        segments: num_segments x 6: a tensor's number, the first row and how many, the first column
            and how many, and where its sums over rows begin for one vector (LEFT).
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
        widths = {LEFT: STRIP, RIGHT: columns, WHOLE: SEGMENT_ENTRIES}
        for column in range(0, columns, widths[kind] or 1):
            num_columns = min(widths[kind], columns - column)
            num_rows = max(1, SEGMENT_ENTRIES // num_columns)
            for row in range(0, rows, num_rows):
                count = min(num_rows, rows - row)
                segments.append((tensor, row, count, column, num_columns, num_sums))
                num_sums += num_columns if kind == LEFT else 0
    table = np.stack([offsets, sides.rows, sides.columns, sides.kinds, sides.places, sides.others])
    of_segments = np.array(segments, dtype=np.int64).reshape(-1, 6)
    return Pieces(np.ascontiguousarray(table.T), of_segments, num_sums)


@partial(kernel, fastmath={"reassoc"})
def _product(a: Floats, b: Floats) -> float:
    """Return the inner product, summed in the order that suits the processor."""
    total = np.float32(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return float(total)


@kernel
def _add_rows(target: Floats, x: int, row_bytes: int, factors: Floats) -> None:
    """target += sum_i factors[i] * row i of a block, where rows lie so many bytes apart."""
    size, together = target.size, factors.size // GROUP * GROUP
    for row in range(0, together, GROUP):
        f0, f1, f2, f3 = factors[row], factors[row + 1], factors[row + 2], factors[row + 3]
        begin = x + row * row_bytes
        a, b = floats_at(begin, size), floats_at(begin + row_bytes, size)
        c, d = floats_at(begin + 2 * row_bytes, size), floats_at(begin + 3 * row_bytes, size)
        for i in range(size):
            target[i] += (f0 * a[i] + f1 * b[i]) + (f2 * c[i] + f3 * d[i])
    for row in range(together, factors.size):
        add_scaled(target, floats_at(x + row * row_bytes, size), factors[row])


@kernel
def _mix(
    change: Floats, at: Vectors, weights: Floats, piece: Ints, i: int, j: int, scales: Floats
) -> None:
    """Set change to what columns of row i, from j on, are to change by.

    Args:
        scales: room for as many numbers as the rank.
    """
    _, rows, columns, kind, place, other = piece
    change[:] = 0
    for edge in range(weights.size):
        of_place, of_other = 4 * (edge * at.width + place), 4 * (edge * at.width + other)
        if kind == WHOLE:
            sent = floats_at(at.difference + of_other + 4 * j, change.size)
            add_scaled(change, sent, weights[edge])
            continue
        left, right = at.difference + of_other, at.basis + of_place
        if kind == RIGHT:
            left, right = at.basis + of_place, at.difference + of_other
        for k in range(at.rank):
            scales[k] = weights[edge] * floats_at(left + 4 * (k * rows + i), 1)[0]
        _add_rows(change, right + 4 * j, 4 * columns, scales)


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
    scales: Floats,
) -> None:
    """Mix and update columns of row i of a tensor.

    Args:
        coefficients: none where there is no local step.
        room: for the change: zeros where it does not mix.
    """
    piece, steps = pieces.tensors[tensor], coefficients.shape[0] > 0
    offset, _, columns, _, _, _ = piece
    size, entry = end - begin, i * columns + begin
    change = room[:size]
    if mixes:
        _mix(change, at, weights, piece, i, begin, scales)
    block = floats_at(x + 4 * (offset + entry), size)
    if steps:
        update_block(
            block,
            floats_at(gradients[tensor] + 4 * entry, size),
            floats_at(buf + 4 * (offset + entry), size),
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
    sums: Floats, at: Vectors, piece: Ints, x: int, i: int, count: int, num_columns: int
) -> None:
    """Add the products of rows, from i on, to sums: edges x rank x num_columns.

    Args:
        x: where the first of the columns lies in the first of the rows.
    """
    _, rows, columns, _, _, other = piece
    for vector in range(sums.size // num_columns):
        edge, k = vector // at.rank, vector % at.rank
        factors = at.new_basis + 4 * (edge * at.width + other + k * rows + i)
        target = sums[vector * num_columns : (vector + 1) * num_columns]
        _add_rows(target, x, 4 * columns, floats_at(factors, count))


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
    num_vectors = weights.size * at.rank
    scratch = np.zeros(STRIP, np.float32), np.empty(at.rank, np.float32)
    totals = np.empty((weights.size, at.rank))
    for segment in range(first, last):
        tensor, row, count, column, num_columns, place_of_sums = pieces.segments[segment]
        piece = pieces.tensors[tensor]
        offset, rows, columns, kind, place, _ = piece
        group, end = GROUP if kind == LEFT else 1, column + num_columns
        begin = num_vectors * place_of_sums
        own = sums[begin : begin + num_vectors * num_columns if sends and kind == LEFT else begin]
        own[:] = 0
        for i in range(row, row + count, group):
            num_rows = min(group, row + count - i)
            totals[:] = 0
            for j in range(column, end, STRIP):
                stop = min(j + STRIP, end)
                for each in range(i, i + num_rows):
                    _change(at, weights, mixes, *step, pieces, tensor, each, j, stop, *scratch)
                block = x + 4 * (offset + i * columns + j)
                if sends and kind == LEFT:
                    _multiply_left(own, at, piece, block, i, num_rows, num_columns)
                elif sends and kind == RIGHT:
                    _multiply_right(floats_at(block, stop - j), at, piece, j, totals)
            if sends and kind == RIGHT:
                for edge in range(weights.size):
                    for k in range(at.rank):
                        to = at.messages + 4 * (edge * at.width + place + k * rows + i)
                        floats_at(to, 1)[0] = totals[edge, k]


@kernel
def _write_sums(at: Vectors, num_edges: int, x: int, pieces: Pieces, sums: Floats) -> None:
    """Write what goes whole, and products from the left: the sums of segments, in their order."""
    for segment in range(len(pieces.segments)):
        tensor, row, _, column, num_columns, place_of_sums = pieces.segments[segment]
        offset, _, columns, kind, place, _ = pieces.tensors[tensor]
        for edge in range(num_edges):
            message = at.messages + 4 * (edge * at.width + place + column)
            if kind == WHOLE:
                sent = floats_at(x + 4 * (offset + column), num_columns)
                floats_at(message, num_columns)[:] = sent
            elif kind == LEFT:
                for k in range(at.rank):
                    to = floats_at(message + 4 * k * columns, num_columns)
                    begin = num_edges * at.rank * place_of_sums
                    begin += (edge * at.rank + k) * num_columns
                    if row == 0:
                        to[:] = 0
                    add_scaled(to, sums[begin : begin + num_columns], np.float32(1))


@kernel
def _remove(vectors: Doubles, k: int) -> float:
    """Subtract from vector k what lies in the span of those before; return its squared norm."""
    for other in range(k):
        share = 0.0
        for i in range(vectors.shape[1]):
            share += vectors[k, i] * vectors[other, i]
        for i in range(vectors.shape[1]):
            vectors[k, i] -= share * vectors[other, i]
    square = 0.0
    for i in range(vectors.shape[1]):
        square += vectors[k, i] ** 2
    return square


@kernel
def _orthonormalise(
    factors: int, fresh: int, num_edges: int, rank: int, width: int, tensors: Ints
) -> None:
    """Take each edge and matrix by itself, so that both ends of an edge come to the same bits."""
    for tensor in range(len(tensors)):
        _, rows, columns, kind, _, place = tensors[tensor]
        if kind == WHOLE:
            continue
        size = rows if kind == LEFT else columns
        vectors = np.empty((rank, size))
        for edge in range(num_edges):
            for k in range(rank):
                vector = floats_at(factors + 4 * (edge * width + place + k * size), size)
                vectors[k] = vector
                before = _remove(vectors[k : k + 1], 0)
                if not _remove(vectors, k) > SMALLEST_SHARE**2 * before:
                    vectors[k] = floats_at(fresh + 4 * (place + k * size), size)
                    _remove(vectors, k)
                vectors[k] /= np.sqrt(_remove(vectors, k))
                vector[:] = vectors[k]


class CPUPasses:
    """What `BatchedPasses` does, by kernels, the local step of SGD in the same pass."""

    def __init__(self, low_rank: LowRank, x: torch.Tensor, start: torch.Tensor) -> None:
        self._low_rank, self._x, self._start = low_rank, x, start

    def orthonormalise(self, round_number: int, factors: torch.Tensor) -> None:
        tensors = _pieces(self._low_rank, round_number % 2).tensors
        num_edges, width = factors.shape
        addresses = factors.data_ptr(), self._start[(round_number + 1) % 2].data_ptr()
        _orthonormalise(*addresses, num_edges, self._low_rank.rank, width, tensors)

    def over(self, round_number: int, mix: Mix, local: LocalStep | None) -> None:
        update = None if local is None else local.update_with(self._x, 1.0)
        if local is not None and update is None:
            local.store.collect_gradients()
            local.step()
        step = (
            (self._x.data_ptr(), _NO_ADDRESSES, 0, 0, _NO_COEFFICIENTS)
            if update is None
            else update.arguments()
        )
        x, gradients, buf, _, coefficients = step  # z is what the kernel works out
        pieces, num_edges = _pieces(self._low_rank, round_number % 2), len(mix.messages)
        at = Vectors(
            mix.basis.data_ptr(),
            mix.difference.data_ptr(),
            mix.new_basis.data_ptr(),
            mix.messages.data_ptr(),
            self._low_rank.rank,
            self._low_rank.width,
        )
        sums = np.empty(at.rank * num_edges * pieces.num_sums, np.float32)
        changes = mix.weights.numpy(), mix.mixes, mix.sends, x, gradients, buf, coefficients
        counts = pieces.segments[:, 2] * pieces.segments[:, 4]
        run_shares(_pass, counts, at, *changes, pieces, sums)
        if mix.sends:
            _write_sums(at, num_edges, x, pieces, sums)
