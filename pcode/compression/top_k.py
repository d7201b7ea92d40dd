"""The largest entries and their positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pcode.compression.base import Compressor, Message
from pcode.compression.dispatch import on_gpu
from pcode.compression.kept import check_ratio, consensus_stepsize, kept_in_words, kept_of
from pcode.compression.kernels import elias_fano, sparse
from pcode.compression.kernels import top_k as kernels
from pcode.compression.kernels.candidates import TENSOR, Candidates, Difference
from pcode.compression.kernels.lanes import LANES
from pcode.compression.memory import (
    accumulate_arguments,
    address_of,
    payload_address,
    reference_of,
)
from pcode.compression.options import CompressRatio
from pcode.compression.parallel import run, run_segments, segments_of
from pcode.utils.errors import NotFiniteError, UserError
from pcode.utils.layout import Layout

# Tensors of more entries than this get a sample, of at least so many groups of lanes and of one
# group in so many.
SAMPLED_ABOVE = 1 << 13
LEAST_GROUPS = 128
GROUPS_PER_SAMPLED = 128
MOST_ENTRIES = 1 << 32
# gamma tuned for TUNED_SHARES.
TUNED_STEPSIZES = (0.0375, 0.04, 0.45)


class Plan(NamedTuple):
    """What follows from a layout and a ratio.

    Attributes:
        tensors: a row for each tensor, by the columns of the kernels.
        room: the candidates that there is room for before each segment, and in all.
        code: of the positions.
    """

    tensors: NDArray[np.int64]
    room: NDArray[np.int64]
    code: elias_fano.Code


def _sample(size: int, kept: int) -> tuple[int, int, int]:
    """Groups in a tensor's sample, and two ranks in it that almost always enclose the threshold.

    They are four standard deviations from the rank of the last kept entry, and a bit more, as the
    entries of a group may be alike. 0 stands for a rank that the sample does not have.
    """
    if size <= SAMPLED_ABOVE:
        return 0, 0, 0
    num_groups = max(LEAST_GROUPS, size // (LANES * GROUPS_PER_SAMPLED))
    expected = LANES * num_groups * kept / size
    margin = 4 * math.sqrt(expected) + LANES
    below = int(expected + margin)
    return num_groups, max(0, int(expected - margin)), below if below < LANES * num_groups else 0


@lru_cache(maxsize=64)
def _plan(layout: Layout, compress_ratio: float) -> Plan:
    rows, shares, before = [], [], 0
    for offset, size, kept in zip(
        layout.offsets, layout.sizes, kept_of(layout, compress_ratio), strict=True
    ):
        num_groups, above, below = _sample(size, kept)
        rows.append((offset, size, kept, before, num_groups, above, below))
        # Twice what is expected: segments differ.
        shares.append(min(1.0, 2 * below / (LANES * num_groups)) if below else 1.0)
        before += kept
    segments = segments_of(layout)
    in_segments = np.ceil(np.array(shares)[segments[:, TENSOR]] * segments[:, 3])
    return Plan(
        np.array(rows, dtype=np.int64).reshape(-1, 7),
        np.concatenate([[0], np.cumsum(in_segments)]).astype(np.int64),
        elias_fano.code_of(before, layout.num_entries),
    )


class TopK(Compressor):
    """The k entries of largest |v| of each tensor, unscaled; k = max(1, int(d (1 - ratio))).

    Of equal magnitudes those at the lowest positions are kept. The message holds the kept values
    as little-endian float32, in the order of their positions in the vector, then the positions as
    one Elias-Fano code over the whole vector (`pcode.compression.kernels.elias_fano`).

    A product of weight and value is rounded to float32 before it is added. A message that no
    encoder wrote may add something senseless, but only within the targets.

    Source: top-k of Stich et al., NeurIPS 2018 (arXiv 1809.07599), for each tensor separately.

    Args:
        compress_ratio: the share of the entries that is dropped, in [0, 1).

    Raises:
        UserError: it is not; or, from every method, a layout has more than 2^32 entries.
    """

    def __init__(self, compress_ratio: CompressRatio = 0.9) -> None:
        check_ratio(compress_ratio)
        self.compress_ratio = compress_ratio

    @property
    def default_consensus_stepsize(self) -> float:
        return consensus_stepsize(self.compress_ratio, TUNED_STEPSIZES)

    @property
    def description(self) -> str:
        return kept_in_words(self.compress_ratio, "the largest ")

    def _plan(self, layout: Layout) -> Plan:
        if layout.num_entries > MOST_ENTRIES:
            raise UserError(
                f"top-k compresses at most {MOST_ENTRIES} entries, not {layout.num_entries}"
            )
        return _plan(layout, self.compress_ratio)

    def code(self, layout: Layout) -> elias_fano.Code:
        """The form of the code of the positions."""
        return self._plan(layout).code

    def message_bytes(self, layout: Layout) -> int:
        code = self.code(layout)
        return 4 * code.num_positions + code.num_bytes

    @on_gpu
    def encode(
        self, layout: Layout, value: torch.Tensor, reference: torch.Tensor | None, message: Message
    ) -> None:
        difference = Difference(address_of(layout, value), *reference_of(layout, reference))
        payload = payload_address(message, self.message_bytes(layout))
        tensors, room, code = self._plan(layout)
        candidates = Candidates(
            np.empty(room[-1], dtype=np.int32),
            np.empty(room[-1], dtype=np.uint32),
            np.empty((len(room) - 1, 2), dtype=np.int64),
        )
        brackets = np.empty((layout.num_tensors, 2), dtype=np.int64)
        is_finite = np.ones(layout.num_tensors, dtype=np.bool_)
        found = candidates, brackets
        run_segments(kernels.collect, layout.sizes, difference, tensors, room, *found, is_finite)
        if not is_finite.all():
            raise NotFiniteError(layout.names[int(is_finite.argmin())])
        positions = np.empty(code.num_positions, dtype=np.uint32)
        run_segments(kernels.select, layout.sizes, difference, tensors, *found, payload, positions)
        code_address = payload + 4 * code.num_positions
        run(elias_fano.encode, code.num_chunks, positions, code, code_address)

    @on_gpu
    def accumulate(
        self,
        layout: Layout,
        messages: Sequence[Message],
        targets: Sequence[torch.Tensor],
        weights: Sequence[Sequence[float]],
    ) -> None:
        num_bytes = self.message_bytes(layout)
        given = accumulate_arguments(layout, messages, targets, weights, num_bytes)
        run_segments(sparse.accumulate, layout.sizes, *given, self.code(layout))

    def contraction(self, layout: Layout) -> float:
        kept = kept_of(layout, self.compress_ratio)
        shares = [k / size for k, size in zip(kept, layout.sizes, strict=True) if size > 0]
        return min(shares, default=1.0)
