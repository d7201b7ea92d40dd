"""Launching GPU kernels: one program for each segment, and the table of segments on the device."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from pcode.compression.base import Message, WeightedSum
from pcode.compression.kernels.cpu.parallel import segments_of as cpu_segments_of

# Entries of a program: a multiple of 8, so that packed bits of two programs share no byte.
SEGMENT_ENTRIES = 4096
# Warps of a program that has as many entries: with half of them, numbers would not fit into the
# registers of a thread, or so few programs into a processor that it would wait for memory. What is
# not aligned takes twice the registers, for addresses.
SEGMENT_WARPS, UNALIGNED_WARPS = 8, 16
# Messages of a launch, each of which is code of its own in the kernel.
MOST_MESSAGES = 4
# Entries of a 16-byte access.
WIDEST_ACCESS = 4
# What a payload's address is a multiple of.
ALIGNMENT_BYTES = 4


class Segments(NamedTuple):
    """The pieces of a vector that programs take, on the device.

    Attributes:
        rows: num_segments x 5 int64: a tensor's number, its offset in the vector, the segment's
            first entry within the tensor, the segment's entries, the segment's number.
        by_alignment: those rows that may be read by 16 bytes, where they begin and in their
            number of entries, under WIDEST_ACCESS, and all others under 1; none that is empty.
        firsts: num_tensors + 1 int64: the number of each tensor's first segment, and of all.
    """

    rows: torch.Tensor
    by_alignment: dict[int, torch.Tensor]
    firsts: torch.Tensor

    @property
    def num_programs(self) -> int:
        return len(self.rows)


@lru_cache(maxsize=64)
def segments_of(
    sizes: tuple[int, ...], device: torch.device, entries: int = SEGMENT_ENTRIES
) -> Segments:
    """Return the segments of tensors of these sizes that lie back to back, of so many entries."""
    table = cpu_segments_of(sizes, entries)
    firsts = np.searchsorted(table[:, 0], np.arange(len(sizes) + 1))
    table = np.column_stack([table, np.arange(len(table))])
    begins, counts = table[:, 1] + table[:, 2], table[:, 3]
    is_wide = (begins % WIDEST_ACCESS == 0) & (counts % WIDEST_ACCESS == 0)
    parts = {WIDEST_ACCESS: table[is_wide], 1: table[~is_wide]}
    return Segments(
        torch.from_numpy(table).to(device),
        {each: torch.from_numpy(rows).to(device) for each, rows in parts.items() if len(rows)},
        torch.from_numpy(firsts).to(device),
    )


def check_alignment(messages: Sequence[Message]) -> None:
    """Raise ValueError unless all payloads begin where a float32 can be read."""
    for message in messages:
        if message.payload.data_ptr() % ALIGNMENT_BYTES:
            raise ValueError(
                f"a payload on {message.payload.device} has to begin at a multiple of four bytes"
            )


def with_weights(added: WeightedSum) -> list[tuple[Message, tuple[float, ...]]]:
    """Return the messages, each with its weights, one for each target."""
    check_alignment(added.messages)
    return [*zip(added.messages, map(tuple, added.weights.T.tolist()), strict=True)]


def batches(num_messages: int) -> list[slice]:
    """Return the messages of each launch, in their order."""
    starts = range(0, num_messages, MOST_MESSAGES)
    return [slice(start, start + MOST_MESSAGES) for start in starts]


def launch(
    kernel: Any, num_programs: int, *arguments: Any, num_warps: int = 4, **constants: Any
) -> None:
    """Run so many programs of a kernel on the current device, if any, of 32 threads a warp.

    No multiplication is merged with an addition: products are rounded, as on the CPU.
    """
    if num_programs > 0:
        kernel[num_programs,](*arguments, **constants, num_warps=num_warps, enable_fp_fusion=False)


def launch_on_segments(kernel: Any, segments: Segments, *arguments: Any, **constants: Any) -> None:
    """Run a program of a kernel for each of the segments, which have SEGMENT_ENTRIES at most.

    The kernel takes a table of segments after the arguments. Two launches where some segments are
    aligned and some are not: a last bias, of 10 classes, slows nothing else down.
    """
    for alignment, rows in segments.by_alignment.items():
        launch(
            kernel,
            len(rows),
            *arguments,
            rows,
            ALIGNMENT=alignment,
            ENTRIES=SEGMENT_ENTRIES,
            num_warps=UNALIGNED_WARPS if alignment == 1 else SEGMENT_WARPS,
            **constants,
        )


def signed_key(message: Message) -> int:
    """Return the lower 64 bits of a message's key, signed: kernels get no larger numbers."""
    return (message.key + (1 << 63)) % (1 << 64) - (1 << 63)
