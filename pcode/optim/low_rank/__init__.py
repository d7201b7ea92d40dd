"""Low-rank differences of models: what is sent of each matrix, and where it lies in a message.

A tensor of two dimensions or more is a matrix, of its first dimension x all others. From round to
round it is multiplied from the left and from the right in turn, by the factor that the round before
has left. What is no smaller that way, as every tensor of one dimension, goes whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pcode.compression.draws import words_of
from pcode.utils.layout import Layout
from pcode.utils.seeding import derive_seed

# What is sent of a tensor X: X itself, P^T X, X Q.
WHOLE, LEFT, RIGHT = range(3)
# A vector that sticks out of the span of those before it by no more than this share is rounding.
SMALLEST_SHARE = 1e-4
# Messages lie back to back, and checksums read them by 8 bytes, kernels by 16.
WIDTH_MULTIPLE = 4


class Sides(NamedTuple):
    """What is sent in a round.

    Attributes:
        rows, columns: of each tensor; one row where it goes whole.
        kinds: of each tensor, WHOLE, LEFT or RIGHT.
        places: where each tensor's numbers begin in a message: rank x columns (LEFT) or rank x rows
            (RIGHT) of them, or the tensor.
        others: where its numbers begin in a message of the round before, and of the next.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    kinds: NDArray[np.int64]
    places: NDArray[np.int64]
    others: NDArray[np.int64]


class Mix(NamedTuple):
    """What a pass over the vectors of a node does, for all of its edges.

    Attributes:
        basis, difference: num_edges x width: orthonormal factors, which the products were made with
            whose differences between the edge's ends these are; where a tensor goes whole, its.
        weights: of each edge, num_edges float32: X += sum_e weights[e] P_e Q_e^T.
        new_basis: num_edges x width: orthonormal factors to multiply the changed X by.
        messages: num_edges x width: gets the products.
        mixes, sends: whether to do the first, and the second.
    """

    basis: torch.Tensor
    difference: torch.Tensor
    weights: torch.Tensor
    new_basis: torch.Tensor
    messages: torch.Tensor
    mixes: bool
    sends: bool


@dataclass(frozen=True)
class LowRank:
    """What is sent of the tensors of a layout in even and in odd rounds.

    Half of the matrices, by the numbers that they send, begin from the left and the others from the
    right, so that a link carries about as much in every round.

    Attributes:
        rank: columns of a factor.
    """

    layout: Layout
    rank: int

    @property
    def width(self) -> int:
        """Numbers of a message: the same in all rounds, of which one may leave some unused."""
        return -(-_sides(self)[1] // WIDTH_MULTIPLE) * WIDTH_MULTIPLE

    def sides(self, round_number: int) -> Sides:
        return _sides(self)[0][round_number % 2]

    def start(self, seed: int) -> torch.Tensor:
        """Draw the factors of the first round, and those that take the place of one that is 0.

        2 x width numbers in [-1, 1), in the layout of an even and of an odd round's messages, the
        same on every kind of machine.
        """
        words = words_of(derive_seed(seed, "low rank"), 2, self.width)
        return torch.from_numpy((words / 2**31 - 1).astype(np.float32))


@lru_cache(maxsize=8)
def _sides(low_rank: LowRank) -> tuple[tuple[Sides, Sides], int]:
    """Return what is sent in even and in odd rounds, and the numbers of the longer one."""
    sizes, rank = np.array(low_rank.layout.sizes, dtype=np.int64), low_rank.rank
    rows = np.array([shape[0] if len(shape) > 1 else 1 for shape in low_rank.layout.shapes])
    columns = sizes // np.maximum(rows, 1)
    whole = (rows == 1) | (rank * (rows + columns) >= sizes)
    rows, columns = np.where(whole, 1, rows), np.where(whole, sizes, columns)
    first = np.where(_balanced(np.where(whole, 0, columns - rows)), LEFT, RIGHT)
    kinds, places = [], []
    for left, right in ((LEFT, RIGHT), (RIGHT, LEFT)):
        kind = np.where(whole, WHOLE, np.where(first == LEFT, left, right))
        sent = np.where(whole, sizes, rank * np.where(kind == LEFT, columns, rows))
        kinds.append(kind)
        places.append(np.concatenate([[0], np.cumsum(sent)]))
    even = Sides(rows, columns, kinds[0], places[0][:-1], places[1][:-1])
    odd = Sides(rows, columns, kinds[1], places[1][:-1], places[0][:-1])
    return (even, odd), int(max(places[0][-1], places[1][-1]))


def _balanced(differences: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which differences to add, the others subtracted, for a sum near 0; largest first."""
    total, added = 0, np.zeros(len(differences), dtype=bool)
    for index in np.argsort(-np.abs(differences), kind="stable"):
        added[index] = total * differences[index] <= 0
        total += differences[index] if added[index] else -differences[index]
    return added
