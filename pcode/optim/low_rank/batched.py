"""A model's mixing and its products with factors, by torch's operations on any device.

Matrices of one shape are taken together, so that the number of operations depends on that of
shapes, not on that of tensors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from pcode.optim.local import LocalStep
from pcode.optim.low_rank import LEFT, SMALLEST_SHARE, WHOLE, LowRank, Mix


class Shape(NamedTuple):
    """Matrices of one shape that are multiplied from the same side in a round.

    Attributes:
        matrices: views of x.
        places, others: num_matrices x rank x length: where the numbers of their products lie in a
            message, and those of their factors, that is of the products of the round before.
    """

    is_left: bool
    matrices: list[torch.Tensor]
    places: torch.Tensor
    others: torch.Tensor


class Round(NamedTuple):
    """All shapes, and the entries that go whole: in x, and in messages of this round and others."""

    shapes: list[Shape]
    entries: torch.Tensor
    places: torch.Tensor
    others: torch.Tensor


class BatchedPasses:
    """The passes of PowerGossip over a node's vector, in even and odd rounds.

    Args:
        x: the vector, whose memory stays where it is.
        start: `LowRank.start`.
    """

    def __init__(self, low_rank: LowRank, x: torch.Tensor, start: torch.Tensor) -> None:
        self._x, self._start = x, start
        self._rounds = [_round(low_rank, number, x) for number in range(2)]

    def orthonormalise(self, round_number: int, factors: torch.Tensor) -> None:
        """Make the products of the round before the orthonormal factors of a round, in place.

        By Gram and Schmidt, each vector against those before it twice, in float64. One that is not
        independent of those before it, as that of nodes which are equal, begins anew.

        Args:
            factors: num_edges x width.
        """
        fresh = self._start[(round_number + 1) % 2].double()
        for shape in self._rounds[round_number % 2].shapes:
            vectors = factors[:, shape.others].double()  # edges x matrices x rank x length
            for k in range(vectors.shape[2]):
                vector, span = vectors[:, :, k], vectors[:, :, :k]
                before, vector = _norm(vector), _without(span, vector)
                is_independent = _norm(vector) > SMALLEST_SHARE * before
                vector = torch.where(is_independent, vector, fresh[shape.others[:, k]])
                vector = _without(span, _without(span, vector))
                vectors[:, :, k] = vector / _norm(vector)
            factors[:, shape.others] = vectors.float()

    def over(self, round_number: int, mix: Mix, local: LocalStep | None) -> None:
        """Take the local step, if any, mix, and multiply the result for the next messages."""
        if local is not None:
            local.store.collect_gradients()
            local.step()
        x, found = self._x, self._rounds[round_number % 2]
        num_edges = len(mix.messages)
        for shape in found.shapes:
            stacked = torch.stack(shape.matrices)
            count, rank, length = shape.places.shape
            num_vectors, other_length = num_edges * rank, shape.others.shape[2]
            if mix.mixes:
                own = (mix.basis * mix.weights[:, None])[:, shape.places].transpose(0, 1)
                own = own.reshape(count, num_vectors, length)
                theirs = mix.difference[:, shape.others].transpose(0, 1)
                theirs = theirs.reshape(count, num_vectors, other_length)
                left, right = (theirs, own) if shape.is_left else (own, theirs)
                stacked.baddbmm_(left.transpose(1, 2), right)
                torch._foreach_copy_(shape.matrices, list(stacked.unbind()))
            if mix.sends:
                factors = mix.new_basis[:, shape.others].transpose(0, 1)
                factors = factors.reshape(count, num_vectors, other_length)
                products = factors @ (stacked if shape.is_left else stacked.transpose(1, 2))
                products = products.view(count, num_edges, rank, length)
                mix.messages[:, shape.places] = products.transpose(0, 1)
        if mix.mixes:
            x[found.entries] += mix.weights @ mix.difference[:, found.others]
        if mix.sends:
            mix.messages[:, found.places] = x[found.entries]


def _norm(vector: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    return norm


def _without(span: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Subtract from vectors what lies in a span of orthonormal ones."""
    shares = span @ vector[..., None]
    return vector - (span.transpose(-1, -2) @ shares)[..., 0]


def _round(low_rank: LowRank, round_number: int, x: torch.Tensor) -> Round:
    sides, views, device = low_rank.sides(round_number), low_rank.layout.views(x), x.device
    found: dict[tuple[int, int, int], list[int]] = {}
    for tensor, key in enumerate(zip(*(part.tolist() for part in sides[:3]), strict=True)):
        found.setdefault(key, []).append(tensor)
    shapes, whole = [], []
    for (rows, columns, kind), tensors in found.items():
        if kind == WHOLE:
            whole += tensors
            continue
        lengths = (columns, rows) if kind == LEFT else (rows, columns)
        indices = []
        for begins, length in zip(sides[3:], lengths, strict=True):
            first = torch.from_numpy(begins[tensors])[:, None, None]
            numbers = torch.arange(low_rank.rank * length).view(low_rank.rank, length)
            indices.append((first + numbers).to(device))
        matrices = [views[tensor].view(rows, columns) for tensor in tensors]
        shapes.append(Shape(kind == LEFT, matrices, *indices))
    entries = []
    for begins in (np.array(low_rank.layout.offsets), sides.places, sides.others):
        ranges = [np.arange(begins[t], begins[t] + low_rank.layout.sizes[t]) for t in whole]
        flat = np.concatenate([np.zeros(0, np.int64), *ranges])
        entries.append(torch.from_numpy(flat).to(device))
    return Round(shapes, *entries)
