"""Checksums of all messages so far on each edge, which its two ends compare now and then.

TCP's own has 16 bits, and of what happens in cards, drivers and memory nothing is said: a message
with a flipped bit decodes to other numbers. The messages stay as they are; the two ends of an edge
send each other eight bytes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pcode.utils.errors import DamagedMessageError

_WORD_BYTES = 8
# A sum over rows of words is taken at the speed of memory.
_ROW_WORDS = 4096
# Of the running checksum, which is modulo 2^64. Odd, so that it forgets no bit.
_FACTOR = 6364136223846793005

# One int64: NumPy's on the host, whose calls take a quarter of the time of torch's, or on a GPU.
_Sum = Any
_Sums = dict[int, _Sum]


def checksum(message: torch.Tensor) -> _Sum:
    """Return a checksum of a contiguous tensor's bits, modulo 2^64, where the tensor lies.

    Its words are added, those of each row of 32 KiB with an odd weight of its own: one flipped bit
    always changes it, and so do rows that change places. Hosts and GPUs come to the same, and the
    host does not wait for a GPU.
    """
    on_host = not message.is_cuda
    content: Any = message.view(-1).view(torch.int8)
    content = content.numpy() if on_host else content
    num_words, num_left = divmod(message.nbytes, _WORD_BYTES)
    words = content[: num_words * _WORD_BYTES].view(np.int64 if on_host else torch.int64)
    num_rows = num_words // _ROW_WORDS
    if num_rows > 0:
        rows = words[: num_rows * _ROW_WORDS].reshape(num_rows, _ROW_WORDS).sum(1)
        rows = rows + 2 * rows.cumsum(0)
        words = words[num_rows * _ROW_WORDS :]
        total = rows.sum(0, keepdims=True) + words.sum(0, keepdims=True)
    else:
        total = words.sum(0, keepdims=True)
    if num_left > 0:
        total += content[-num_left:].sum(0, keepdims=True)
    return total


class EdgeChecksums:
    """One process's running checksums: of what it has sent to each peer, and received from it."""

    def __init__(self) -> None:
        self._sent: _Sums = {}
        self._received: _Sums = {}

    def add_sent(self, messages: Mapping[int, torch.Tensor]) -> None:
        """Count messages by the peers that get them."""
        _add(self._sent, messages)

    def add_received(self, messages: Mapping[int, torch.Tensor]) -> None:
        """Count messages by the peers that they came from; they are there."""
        _add(self._received, messages)

    def messages(self) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """Return the message to each peer, and a buffer for the one from each, for `compare`."""
        sent = {peer: torch.as_tensor(total) for peer, total in self._sent.items()}
        received = {peer: torch.as_tensor(total) for peer, total in self._received.items()}
        return sent, {peer: torch.empty_like(total) for peer, total in received.items()}

    def compare(self, reported: Mapping[int, torch.Tensor], rank: int, step: int) -> None:
        """Compare the checksums of what peers have sent with those of what came.

        Raises:
            DamagedMessageError: they differ; names rank, peer and step.
        """
        for peer, total in self._received.items():
            if int(reported[peer]) != int(total[0]):
                raise DamagedMessageError(rank=rank, peer=peer, step=step)


def _add(running: _Sums, messages: Mapping[int, torch.Tensor]) -> None:
    seen: _Sums = {}  # what several peers get is read once
    for peer, message in messages.items():
        total = seen.get(id(message))
        if total is None:
            total = seen[id(message)] = checksum(message)
        if peer in running:  # in arrays, where integers wrap without a word
            running[peer] *= _FACTOR
            running[peer] += total
        else:
            running[peer] = total + 0
