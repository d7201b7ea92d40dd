"""Checksums of the messages of an edge: what they find, and that both ends come to the same."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from pcode.communication import ProcessCommunicator, Simulation
from pcode.communication.checksums import EdgeChecksums, checksum
from pcode.utils.errors import DamagedMessageError

SIZES_BYTES = (0, 1, 7, 8, 90, 4096, 32767, 32768, 32769, 3 * 32768 + 5)
WORD, ROW_WORDS = 2**64, 4096


def message_of(num_bytes: int) -> torch.Tensor:
    return torch.frombuffer(
        bytearray(random.Random(num_bytes).randbytes(num_bytes) + b"\0"), dtype=torch.uint8
    )[:num_bytes]


def by_hand(content: bytes) -> int:
    """The sum in whole numbers, a word at a time."""
    num_words = len(content) // 8
    words = [
        int.from_bytes(content[8 * i : 8 * i + 8], "little", signed=True) for i in range(num_words)
    ]
    num_rows = num_words // ROW_WORDS
    rows = [sum(words[ROW_WORDS * i : ROW_WORDS * (i + 1)]) for i in range(num_rows)]
    total = sum(row * (2 * (num_rows - i) + 1) for i, row in enumerate(rows))
    total += sum(words[num_rows * ROW_WORDS :])
    total += sum(byte - 256 * (byte > 127) for byte in content[8 * num_words :])
    return total % WORD


@pytest.mark.parametrize("num_bytes", SIZES_BYTES)
def test_it_is_the_sum_by_hand(num_bytes: int) -> None:
    message = message_of(num_bytes)
    assert int(checksum(message)[0]) % WORD == by_hand(bytes(message.tolist()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int32])
def test_it_is_that_of_the_bits(dtype: torch.dtype) -> None:
    bits = message_of(8 * 5000)
    assert int(checksum(bits.view(dtype))[0]) == int(checksum(bits)[0])
    assert int(checksum(bits.view(dtype).view(10, -1))[0]) == int(checksum(bits)[0])


@pytest.mark.parametrize("num_bytes", [1, 7, 8, 90, 3 * 32768 + 5])
def test_a_flipped_bit_changes_it(num_bytes: int) -> None:
    message = message_of(num_bytes)
    before = int(checksum(message)[0])
    positions = random.Random(1).sample(range(8 * num_bytes), min(8 * num_bytes, 500))
    for position in positions:
        message[position // 8] ^= 1 << position % 8
        assert int(checksum(message)[0]) != before, position
        message[position // 8] ^= 1 << position % 8


def test_rows_that_change_places_change_it() -> None:
    message = message_of(2 * 32768)
    assert int(checksum(message.view(2, -1).flip(0).contiguous())[0]) != int(checksum(message)[0])


Change = Callable[[int, int, torch.Tensor], object]


def exchanging(change: Change, num_steps: int = 6) -> Callable[[ProcessCommunicator], None]:
    """Return a node that exchanges with its neighbours in a ring, and compares every third step.

    `change` gets rank, step and what came from the node before, between its arrival and the sum.
    """

    def node(communicator: ProcessCommunicator) -> None:
        class Changing(type(communicator)):  # type: ignore[misc]
            def _exchange(self, outgoing: object, incoming: object, step: int) -> object:
                wait = super()._exchange(outgoing, incoming, step)

                def wait_and_change() -> None:
                    wait()
                    before = incoming.get((self.rank - 1) % self.size)  # type: ignore[attr-defined]
                    if before is not None and before.numel() > 1:
                        change(self.rank, step, before)

                return wait_and_change

        communicator.__class__ = Changing
        communicator.checksums = EdgeChecksums()
        peers = {(communicator.rank + offset) % communicator.size for offset in (1, -1)}
        for step in range(num_steps):
            own = message_of(100 + communicator.rank) if step % 2 else message_of(100)
            own = own[:100].clone().fill_(step) if step == 4 else own[:100]
            incoming = {peer: torch.empty(100, dtype=torch.uint8) for peer in peers}
            communicator.exchange(dict.fromkeys(peers, own), incoming, step).wait()
            if step % 3 == 2:
                communicator.compare_messages(step + 1)
        assert communicator.bytes_sent == num_steps * 200

    return node


def test_both_ends_agree() -> None:
    Simulation(4).run(exchanging(lambda rank, step, message: None))


def test_a_change_on_the_way_names_the_edge_and_the_step() -> None:
    def change(rank: int, step: int, message: torch.Tensor) -> None:
        if (rank, step) == (2, 4):
            message[50] ^= 16

    with pytest.raises(DamagedMessageError) as said:
        Simulation(4).run(exchanging(change))
    assert (said.value.rank, said.value.peer, said.value.step) == (2, 1, 6)
