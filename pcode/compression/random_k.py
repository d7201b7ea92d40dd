"""Some entries of each tensor, drawn at random at both ends."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from pcode.compression.base import Compressor, Message
from pcode.compression.dispatch import on_gpu
from pcode.compression.draws import words_of
from pcode.compression.kept import check_ratio, consensus_stepsize, kept_in_words, kept_of
from pcode.compression.kernels import random_k as kernels
from pcode.compression.memory import (
    accumulate_arguments,
    address_of,
    check_finite,
    offsets_of,
    payload_address,
    reference_of,
    sizes_of,
)
from pcode.compression.options import CompressRatio, IsBiased
from pcode.compression.parallel import run_segments, segments_of_sizes
from pcode.utils.errors import UserError
from pcode.utils.layout import Layout

# gamma tuned for TUNED_SHARES.
TUNED_STEPSIZES = (0.00625, 0.075, 0.45)
# The kernels hold a tensor's size in 32 bits.
MOST_ENTRIES = (1 << 32) - 1
# An entry is a random access, some ten times the time of one that follows the last.
ENTRIES_PER_THREAD = 1 << 14


@lru_cache(maxsize=64)
def _inverse_shares(sizes: tuple[int, ...], kept: tuple[int, ...]) -> NDArray[np.float32]:
    """d / k of each tensor, rounded to float32."""
    return (np.array(sizes) / np.maximum(kept, 1)).astype(np.float32)


class RandomK(Compressor):
    """Random k: Q(v) is v at k uniformly drawn entries of each tensor and 0 elsewhere.

    k = max(1, d (1 - compress_ratio) rounded down). Unbiased, Q is that times d / k, rounded to
    float32. The message holds the k little-endian float32 values of each tensor, in the order in
    which they are drawn, and nothing else: both ends draw the positions, without replacement, from
    the message's key and the tensor's number. Of a tensor of up to SHUFFLED_ENTRIES entries they
    are the first k of a Fisher-Yates shuffle. In a longer one, value i stands at p(i), where p is
    a keyed permutation of 0..2^m - 1 >= d - 1 that is applied until the result is below d; it is
    four rounds of adding a word, multiplying by an odd one (modulo 2^m) and folding the upper half
    of the bits on the lower. Every value is found by itself, on any number of threads.

    Only the entries that are drawn are read: NaN or infinity is found where it is drawn.

    Source: rand_k of Stich et al., NeurIPS 2018 (arXiv 1809.07599), of each tensor by itself.

    Args:
        compress_ratio: the share of the entries that is dropped, in [0, 1).
        is_biased: leave the values as they are, which makes Q a contraction.

    Raises:
        UserError: a ratio outside [0, 1); or, from every method, a tensor has 2^32 entries or more.
    """

    def __init__(self, compress_ratio: CompressRatio = 0.9, is_biased: IsBiased = True) -> None:
        check_ratio(compress_ratio)
        self.compress_ratio, self.is_biased = compress_ratio, is_biased

    @property
    def default_consensus_stepsize(self) -> float:
        return consensus_stepsize(self.compress_ratio, TUNED_STEPSIZES)

    @property
    def description(self) -> str:
        form = "biased" if self.is_biased else "unbiased"
        return f"{kept_in_words(self.compress_ratio)}, drawn at random, {form}"

    def kept(self, layout: Layout) -> tuple[int, ...]:
        """Entries kept of each tensor."""
        largest = max(layout.sizes, default=0)
        if largest > MOST_ENTRIES:
            raise UserError(
                f"random-k compresses at most {MOST_ENTRIES} entries of a tensor, not {largest}"
            )
        return kept_of(layout, self.compress_ratio)

    def scales(self, layout: Layout) -> NDArray[np.float32]:
        """What the kept entries of each tensor are multiplied by."""
        kept = self.kept(layout)
        return _inverse_shares(kept if self.is_biased else layout.sizes, kept)

    def message_bytes(self, layout: Layout) -> int:
        return 4 * sum(self.kept(layout))

    @on_gpu
    def encode(
        self, layout: Layout, value: torch.Tensor, reference: torch.Tensor | None, message: Message
    ) -> None:
        kept = self.kept(layout)
        segments = segments_of_sizes(kept)
        sums = np.empty(len(segments))
        run_segments(
            kernels.encode,
            kept,
            address_of(layout, value),
            *reference_of(layout, reference),
            payload_address(message, self.message_bytes(layout)),
            sizes_of(layout),
            offsets_of(layout),
            self.scales(layout),
            words_of(message.key, layout.num_tensors, kernels.NUM_WORDS),
            sums,
            entries_per_thread=ENTRIES_PER_THREAD,
        )
        check_finite(layout, segments, sums)

    @on_gpu
    def accumulate(
        self,
        layout: Layout,
        messages: Sequence[Message],
        targets: Sequence[torch.Tensor],
        weights: Sequence[Sequence[float]],
    ) -> None:
        num_bytes = self.message_bytes(layout)
        addresses, payloads, matrix = accumulate_arguments(
            layout, messages, targets, weights, num_bytes
        )
        # Two messages may hold the same entry: one after the other, not on two threads at once.
        for message, payload, column in zip(
            messages, payloads.tolist(), np.ascontiguousarray(matrix.T), strict=True
        ):
            if column.any():
                run_segments(
                    kernels.accumulate,
                    self.kept(layout),
                    addresses,
                    payload,
                    column,
                    sizes_of(layout),
                    offsets_of(layout),
                    words_of(message.key, layout.num_tensors, kernels.NUM_WORDS),
                    entries_per_thread=ENTRIES_PER_THREAD,
                )

    def contraction(self, layout: Layout) -> float:
        """k / d, unbiased 2 - d / k, of the tensor that keeps the smallest share."""
        shares = [
            kept / size for kept, size in zip(self.kept(layout), layout.sizes, strict=True) if size
        ]
        share = min(shares, default=1.0)
        return share if self.is_biased else 2 - 1 / share
