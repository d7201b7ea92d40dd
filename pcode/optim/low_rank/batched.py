"""A model's mixing and its products with factors, by torch's operations on any device.

Matrices of one shape are taken together, so that the number of operations depends on that of
shapes, not on that of tensors.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from pcode.optim.low_rank import LEFT, WHOLE, LowRank, Mix

# A vector that sticks out of the span of those before it by no more than this is rounding.
SMALLEST_SHARE = 1e-4


class Shape(NamedTuple):
    """Matrices of one shape that are multiplied from the same side in a round.

    Attributes:
        tensors: their numbers.
        places, others: num_matrices x rank x length: where the numbers of their products lie in a
            message, and those of their factors, that is of the products of the round before.
    """

    rows: int
    columns: int
    is_left: bool
    tensors: tuple[int, ...]
    places: torch.Tensor
    others: torch.Tensor


class Shapes(NamedTuple):
    """All of a round, and the entries that go whole: in the vector, and in messages."""

    shapes: tuple[Shape, ...]
    entries: torch.Tensor
    places: torch.Tensor
    others: torch.Tensor


def _ranges(begins: list[int], rank: int, length: int, device: torch.device) -> torch.Tensor:
    numbers = torch.arange(rank * length, device=device).view(rank, length)
    return torch.tensor(begins, device=device)[:, None, None] + numbers


@lru_cache(maxsize=16)
def _shapes(low_rank: LowRank, is_odd: int, device: torch.device) -> Shapes:
    sides = low_rank.sides(is_odd)
    found: dict[tuple[int, int, int], list[int]] = {}
    for tensor, key in enumerate(zip(*(part.tolist() for part in sides[:3]), strict=True)):
        found.setdefault(key, []).append(tensor)
    shapes, whole = [], []
    for (rows, columns, kind), tensors in found.items():
        if kind == WHOLE:
            whole += tensors
            continue
        lengths = (columns, rows) if kind == LEFT else (rows, columns)
        indices = [
            _ranges(begins[tensors].tolist(), low_rank.rank, length, device)
            for begins, length in zip(sides[3:], lengths, strict=True)
        ]
        shapes.append(Shape(rows, columns, kind == LEFT, tuple(tensors), *indices))
    begins = low_rank.layout.offsets, sides.places.tolist(), sides.others.tolist()
    entries = [
        torch.cat([torch.arange(at[t], at[t] + low_rank.layout.sizes[t]) for t in whole])
        if whole
        else torch.arange(0)
        for at in begins
    ]
    return Shapes(tuple(shapes), *(each.to(device) for each in entries))


def orthonormalise(
    low_rank: LowRank, round_number: int, factors: torch.Tensor, start: torch.Tensor
) -> None:
    """Make the products of the round before the orthonormal factors of a round, in place.

    By Gram and Schmidt, each vector against those before it twice. One that is not independent of
    those before it, as that of nodes which are equal, begins anew from the start's.

    Args:
        factors: num_edges x width.
        start: `LowRank.start`.
    """
    fresh = start[(round_number + 1) % 2]
    for shape in _shapes(low_rank, round_number % 2, factors.device).shapes:
        vectors = factors[:, shape.others]  # edges x matrices x rank x length
        for k in range(low_rank.rank):
            vector, span = vectors[:, :, k], vectors[:, :, :k]
            before = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
            vector = _without(span, vector)
            after = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
            is_independent = after > SMALLEST_SHARE * before
            vector = torch.where(is_independent, vector, fresh[shape.others[:, k]])
            vector = _without(span, vector)
            norm = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
            vectors[:, :, k] = vector / norm
        factors[:, shape.others] = vectors


def _without(span: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Subtract from vectors what lies in a span of orthonormal ones."""
    shares = span @ vector[..., None]
    return vector - (span.transpose(-1, -2) @ shares)[..., 0]


def pass_over(low_rank: LowRank, round_number: int, x: torch.Tensor, mix: Mix) -> None:
    """Add to x what the round before has brought, and multiply the result for the next messages.

    Args:
        round_number: of the messages that are made.
    """
    rank, num_edges = low_rank.rank, len(mix.messages)
    shapes = _shapes(low_rank, round_number % 2, x.device)
    views = low_rank.layout.views(x)
    for shape in shapes.shapes:
        matrices = [views[t].view(shape.rows, shape.columns) for t in shape.tensors]
        stacked = torch.stack(matrices)

        def vectors_of(
            source: torch.Tensor, places: torch.Tensor, count: int = len(matrices)
        ) -> torch.Tensor:
            """Matrices x (edges x rank) x length."""
            return source[:, places].transpose(0, 1).reshape(count, num_edges * rank, -1)

        if mix.mixes:
            own = vectors_of(mix.basis * mix.weights[:, None], shape.places)
            theirs = vectors_of(mix.difference, shape.others)
            left, right = (theirs, own) if shape.is_left else (own, theirs)
            stacked.baddbmm_(left.transpose(1, 2), right)
            torch._foreach_copy_(matrices, list(stacked.unbind()))
        if mix.sends:
            factors = vectors_of(mix.new_basis, shape.others)
            transposed = stacked if shape.is_left else stacked.transpose(1, 2)
            products = (factors @ transposed).view(len(matrices), num_edges, rank, -1)
            mix.messages[:, shape.places] = products.transpose(0, 1)
    if mix.mixes:
        x[shapes.entries] += mix.weights @ mix.difference[:, shapes.others]
    if mix.sends:
        mix.messages[:, shapes.places] = x[shapes.entries]
