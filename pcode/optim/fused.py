"""Fused steps on CPUs: receive, step and compress in one pass over memory, to the same bits.

The vectors of a model do not fit into a processor's caches: at 25 million parameters a step of
CHOCO with sign takes a fifth less time or better than one pass after the other.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from pcode.compression import Compressor, Message
from pcode.compression.base import Difference
from pcode.compression.kernels.cpu.blocks import total_of
from pcode.compression.kernels.cpu.cache import kernel
from pcode.compression.kernels.cpu.memory import (
    BLOCK,
    Addresses,
    Doubles,
    Floats,
    Ints,
    addresses_of,
    addresses_of_sum,
    floats_at,
)
from pcode.compression.kernels.cpu.parallel import sum_segments
from pcode.compression.kernels.cpu.vectors import LANES
from pcode.compression.sign import Sign
from pcode.compression.sign.cpu import accumulate_block, encode_block, write_means
from pcode.compression.sign.places import places_of
from pcode.optim.sgd_update import SGDUpdate, update_block

# Called with received messages, targets, weights, a reference and the message to be sent, which has
# a buffer of its own: adds the former into the targets, updates x, and encodes x - reference.
FusedStep = Callable[
    [Sequence[Message], Sequence[torch.Tensor], Sequence[Sequence[float]], torch.Tensor, Message],
    None,
]


@kernel
def _step(
    targets: Ints,
    payloads: Ints,
    weights: Floats,
    x: int,
    gradients: Ints,
    buf: int,
    z: int,
    coefficients: Floats,
    difference: Addresses,
    payload: int,
    places: Ints,
    sums: Doubles,
    segments: Ints,
    first: int,
    last: int,
) -> None:
    room, lanes = np.empty(BLOCK, np.float32), np.empty(LANES)
    for segment in range(first, last):
        tensor, offset, start, size = segments[segment]
        lanes[:] = 0
        for begin in range(start, start + size, BLOCK):
            num_entries = min(BLOCK, start + size - begin)
            entry, place = offset + begin, places[tensor] + begin // 8
            accumulate_block(targets, payloads, weights, tensor, entry, place, num_entries)
            update_block(
                floats_at(x + 4 * entry, num_entries),
                floats_at(gradients[tensor] + 4 * begin, num_entries),
                floats_at(buf + 4 * entry, num_entries),
                floats_at(z + 4 * entry, num_entries),
                coefficients[tensor],
            )
            encode_block(difference, entry, num_entries, payload + place, lanes, room)
        sums[segment] = total_of(lanes)


def sign_step(
    update: SGDUpdate,
    messages: Sequence[Message],
    targets: Sequence[torch.Tensor],
    weights: Sequence[Sequence[float]],
    reference: torch.Tensor,
    message: Message,
) -> None:
    """Take the `FusedStep` of an update and the sign compressor.

    Raises:
        NotFiniteError: as `Sign.encode`.
    """
    layout = update.layout
    added = Sign().checked_sum(layout, messages, targets, weights)
    norms = sum_segments(
        _step,
        layout,
        *addresses_of_sum(added),
        *update.arguments(),
        addresses_of(Difference(update.x, reference)),
        message.payload.data_ptr(),
        places_of(layout.sizes),
    )
    write_means(layout, message, norms)


# Each takes the update before what a `FusedStep` is called with.
FUSED_STEPS: dict[type[Compressor], Callable[..., None]] = {Sign: sign_step}
