"""Kernels on one thread or several: a vector's segments are shared among threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pcode.utils.errors import NotFiniteError
from pcode.utils.layout import Layout

# Entries of a segment: a multiple of 8, so that packed bits of two segments share no byte.
SEGMENT_ENTRIES = 1 << 16
# A thread is worth waking (some 30 microseconds) for this many segments (1 MB) or more.
SEGMENTS_PER_THREAD = 4
ENTRIES_PER_THREAD = SEGMENTS_PER_THREAD * SEGMENT_ENTRIES


@lru_cache(maxsize=64)
def array_of(numbers: tuple[int, ...]) -> NDArray[np.int64]:
    """Return numbers of each tensor, such as a layout's sizes, in an array made once."""
    return np.array(numbers, dtype=np.int64)


@lru_cache(maxsize=64)
def segments_of(
    sizes: tuple[int, ...], segment_entries: int = SEGMENT_ENTRIES
) -> NDArray[np.int64]:
    """Return the pieces in which threads take tensors of these sizes, num_segments x 4, made once.

    Each row holds a tensor's number, its offset in the vector, the segment's first entry within
    the tensor (a multiple of segment_entries) and the segment's entries. They depend on the sizes
    alone, so that what is summed segment by segment has the same bits on any number of threads.
    """
    rows = [
        (tensor, offset, start, min(segment_entries, size - start))
        for tensor, (offset, size) in enumerate(
            zip(accumulate(sizes, initial=0), sizes, strict=False)
        )
        for start in range(0, size, segment_entries)
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


@lru_cache(maxsize=64)
def _bounds(sizes: tuple[int, ...], num_threads: int, entries: int) -> tuple[int, ...]:
    """Return the first segment of each thread, for about as many entries, and how many there are.

    Args:
        entries: a thread has so many or more.
    """
    return _shares(segments_of(sizes)[:, 3], num_threads, entries)


def _shares(counts: NDArray[np.int64], num_threads: int, entries: int) -> tuple[int, ...]:
    """Do as `_bounds`, of segments of so many entries."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    num_threads = max(1, min(num_threads, total // entries))
    shares = total * np.arange(1, num_threads) / num_threads
    return 0, *np.searchsorted(ends, shares).tolist(), len(ends)


@lru_cache(maxsize=8)
def _pool(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads, thread_name_prefix="compression")


def _call(kernel: Callable[..., None], bounds: Sequence[int], arguments: tuple[Any, ...]) -> None:
    num_others = len(bounds) - 2
    others = [
        _pool(num_others).submit(kernel, *arguments, first, last)
        for first, last in pairwise(bounds[1:])
    ]
    try:
        kernel(*arguments, bounds[0], bounds[1])
    finally:  # they write into memory that is the caller's
        for other in others:
            other.exception()  # waits
    for other in others:
        other.result()


def run(kernel: Callable[..., None], num_segments: int, *arguments: Any) -> None:
    """Call kernel(*arguments, first, last) so that every segment is in one range first..last - 1.

    On `torch.get_num_threads()` threads, where the segments are worth it; the kernel runs without
    the interpreter lock. It returns when all have returned.
    """
    num_threads = max(1, min(torch.get_num_threads(), num_segments // SEGMENTS_PER_THREAD))
    _call(
        kernel, [num_segments * index // num_threads for index in range(num_threads + 1)], arguments
    )


def run_segments(
    kernel: Callable[..., None],
    sizes: tuple[int, ...],
    *arguments: Any,
    entries_per_thread: int = ENTRIES_PER_THREAD,
) -> None:
    """Like `run`, over the segments of tensors of these sizes, which may be small and many.

    The ranges have about as many entries. The kernel takes the segments, as `segments_of` gives
    them, before `first` and `last`.

    Args:
        entries_per_thread: what is worth waking a thread for.
    """
    bounds = _bounds(sizes, torch.get_num_threads(), entries_per_thread)
    _call(kernel, bounds, (*arguments, segments_of(sizes)))


def run_shares(kernel: Callable[..., None], counts: NDArray[np.int64], *arguments: Any) -> None:
    """Like `run`, over segments of so many entries each: the ranges have about as many."""
    bounds = _shares(counts, torch.get_num_threads(), ENTRIES_PER_THREAD)
    _call(kernel, bounds, arguments)


def sum_segments(
    kernel: Callable[..., None],
    layout: Layout,
    *arguments: Any,
    sizes: tuple[int, ...] | None = None,
    entries_per_thread: int = ENTRIES_PER_THREAD,
) -> NDArray[np.float64]:
    """`run_segments` with a kernel that sets a sum for each segment; the sums by tensor.

    Those of a tensor are added one after the other. The kernel takes the array of sums before the
    segments.

    Args:
        sizes: what is read of each tensor, if not all.

    Raises:
        NotFiniteError: a sum is NaN or infinite; names the first such tensor.
    """
    sizes = layout.sizes if sizes is None else sizes
    tensors = segments_of(sizes)[:, 0]
    sums = np.empty(len(tensors))
    run_segments(kernel, sizes, *arguments, sums, entries_per_thread=entries_per_thread)
    finite = np.isfinite(sums)
    if not finite.all():
        raise NotFiniteError(layout.names[tensors[finite.argmin()]])
    return np.bincount(tensors, sums, layout.num_tensors).astype(np.float64, copy=False)
