"""Kernels on one thread or several: a vector's segments are shared among threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pcode.layout import Layout

# Entries of a segment: a multiple of 8, so that packed bits of two segments share no byte.
SEGMENT_ENTRIES = 1 << 16
# A thread is worth waking (some 30 microseconds) for this many segments (1 MB) or more.
SEGMENTS_PER_THREAD = 4


@lru_cache(maxsize=64)
def _segments(sizes: tuple[int, ...]) -> NDArray[np.int64]:
    rows, offset = [], 0
    for tensor, size in enumerate(sizes):
        rows += [
            (tensor, offset, start, min(SEGMENT_ENTRIES, size - start))
            for start in range(0, size, SEGMENT_ENTRIES)
        ]
        offset += size
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def segments_of(layout: Layout) -> NDArray[np.int64]:
    """The pieces in which threads take a vector, num_segments x 4, made once per layout.

    Each row holds a tensor's number, its offset in the vector, the segment's first entry within
    the tensor (a multiple of SEGMENT_ENTRIES) and the segment's entries. They depend on the layout
    alone, so that what is summed segment by segment has the same bits on any number of threads.
    """
    return _segments(layout.sizes)


@lru_cache(maxsize=8)
def _pool(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads, thread_name_prefix="compression")


def run(kernel: Callable[..., None], num_segments: int, *arguments: Any) -> None:
    """Call kernel(*arguments, first, last) so that every segment is in one range first..last - 1.

    On `torch.get_num_threads()` threads, where the segments are worth it; the kernel runs without
    the interpreter lock. It returns when all have returned.
    """
    num_threads = max(1, min(torch.get_num_threads(), num_segments // SEGMENTS_PER_THREAD))
    bounds = [num_segments * index // num_threads for index in range(num_threads + 1)]
    others = [
        _pool(num_threads - 1).submit(kernel, *arguments, first, last)
        for first, last in pairwise(bounds[1:])
    ]
    kernel(*arguments, 0, bounds[1])
    for other in others:
        other.result()
