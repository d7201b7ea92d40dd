"""Latency and bandwidth between two ranks, over the run's own backend."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pcode.check.rounds import Edge, apart
from pcode.communication import Communicator
from pcode.utils.errors import CommunicationError

MOST_BYTES = 4 << 20
_FIRST_BYTES = 1 << 14
_GROWTH = 4
_FEWEST_PINGS, _MOST_PINGS = 5, 50
_WARM_UP = 3
_MOST_MESSAGES = 5
_LONGEST_SECONDS, _SHORTEST_SECONDS = 0.8, 0.02  # of a round
# What the rank that measures asks of the other: to send so many bytes, or to take them.
_SEND, _TAKE, _END = 0, 1, 2


@dataclass(frozen=True)
class Measured:
    """An edge (i, j) and what was found.

    Attributes:
        latency_seconds: half of a small message's way there and back, median.
        least_seconds: the same at its shortest, which no busy core makes longer.
        there: bits a second from i to j.
        back: bits a second from j to i.
    """

    edge: Edge
    latency_seconds: float
    least_seconds: float
    there: float
    back: float

    @property
    def bandwidth(self) -> float:
        """Bits a second, of the slower direction."""
        return min(self.there, self.back)

    def message_seconds(self, num_bytes: int) -> float:
        """How long a message takes."""
        return self.latency_seconds + 8 * num_bytes / self.bandwidth

    def better(self, other: Measured) -> Measured:
        """The best of two measurements: what disturbs only makes slower."""
        return Measured(
            self.edge,
            min(self.latency_seconds, other.latency_seconds),
            min(self.least_seconds, other.least_seconds),
            max(self.there, other.there),
            max(self.back, other.back),
        )


class EdgeError(Exception):
    """An edge that could not be measured.

    Args:
        edge: which.
        seconds: for how long it was tried.
        cause: what came instead of an answer.
    """

    def __init__(self, edge: Edge, seconds: float, cause: CommunicationError) -> None:
        self.edge, self.seconds, self.cause = edge, seconds, cause
        super().__init__(str(cause))


class _Talk:
    """What one end of an edge says to the other. The lower rank asks, the other answers."""

    def __init__(self, communicator: Communicator, peer: int) -> None:
        self._communicator, self._peer = communicator, peer
        self._word = torch.zeros(2, dtype=torch.int64)
        self._buffer = torch.zeros(MOST_BYTES, dtype=torch.uint8)

    def _send(self, tensor: torch.Tensor) -> None:
        self._communicator.exchange({self._peer: tensor}, {}).wait()

    def _receive(self, tensor: torch.Tensor) -> None:
        self._communicator.exchange({}, {self._peer: tensor}).wait()

    def ask(self, what: int, num_bytes: int) -> float:
        """Let that many bytes go there (_TAKE) or come back (_SEND); seconds until it is done."""
        begin = time.perf_counter()
        self._send(torch.tensor([what, num_bytes]))
        if what == _END:
            return 0.0
        if what == _TAKE and num_bytes:
            self._send(self._buffer[:num_bytes])
        self._receive(self._buffer[: num_bytes if what == _SEND else 1])
        return time.perf_counter() - begin

    def answer(self) -> None:
        """Do what the other end asks for, until it ends."""
        while True:
            self._receive(self._word)
            what, num_bytes = self._word.tolist()
            if what == _END:
                return
            if what == _TAKE and num_bytes:
                self._receive(self._buffer[:num_bytes])
            self._send(self._buffer[: num_bytes if what == _SEND else 1])


def measure(
    communicator: Communicator, edges: Sequence[Edge], hosts: Sequence[str], all_seconds: float
) -> list[Measured]:
    """Measure every edge; all ranks call it, and get the same.

    Edges that share a host are measured one after another.

    Args:
        hosts: of each rank.
        all_seconds: for all rounds together, if they are not too many.

    Raises:
        EdgeError: on both ends of an edge that does not answer, and of those that were being
            measured when another failed.
        CommunicationError: on the other ranks.
    """
    rounds = apart(edges, hosts)
    seconds = min(_LONGEST_SECONDS, max(_SHORTEST_SECONDS, all_seconds / max(1, len(rounds))))
    found = torch.zeros(len(edges), 4, dtype=torch.float64)
    place = {edge: index for index, edge in enumerate(edges)}
    for members in rounds:
        own = next((edge for edge in members if communicator.rank in edge), None)
        if own is None:
            time.sleep(seconds)  # whoever waits in a barrier may take a core from the others
        else:
            row = _measure_one(communicator, own, seconds)
            found[place[own]] = torch.tensor(row, dtype=torch.float64)
        _meet(communicator)
    communicator.all_reduce(found)
    return [Measured(edge, *found[index].tolist()) for edge, index in place.items()]


def _meet(communicator: Communicator) -> None:
    """Return when all have come: a barrier that knows who has not."""
    words = {rank: torch.zeros(1, dtype=torch.uint8) for rank in range(communicator.size)}
    own = words.pop(communicator.rank)
    if communicator.rank == 0:
        communicator.exchange({}, words).wait()
        communicator.exchange(words, {}).wait()
    else:
        communicator.exchange({0: own}, {}).wait()
        communicator.exchange({}, {0: own}).wait()


def _measure_one(
    communicator: Communicator, edge: Edge, seconds: float
) -> tuple[float, float, float, float]:
    """Be one end of an edge; what was found, or zeros at the end that only answers."""
    begin, (one, other) = time.monotonic(), edge
    try:
        if communicator.rank == one:
            return _ask(_Talk(communicator, other), seconds)
        _Talk(communicator, one).answer()
    except CommunicationError as error:
        raise EdgeError(edge, time.monotonic() - begin, error) from error
    return 0.0, 0.0, 0.0, 0.0


def _ask(talk: _Talk, seconds: float) -> tuple[float, float, float, float]:
    """Latency, median and least, and bits a second there and back, in about that many seconds."""
    for _ in range(_WARM_UP):
        talk.ask(_TAKE, 0)
    begin = time.perf_counter()
    pings: list[float] = []
    while len(pings) < _FEWEST_PINGS or (
        len(pings) < _MOST_PINGS and time.perf_counter() - begin < seconds / 5
    ):
        pings.append(talk.ask(_TAKE, 0))
    latency = statistics.median(pings) / 2
    there, back = (_rate(talk, what, 2 * latency, 0.4 * seconds) for what in (_TAKE, _SEND))
    talk.ask(_END, 0)
    return latency, min(pings) / 2, there, back


def _rate(talk: _Talk, what: int, empty_seconds: float, seconds: float) -> float:
    """Bits a second: of messages that grow until one takes a good part of the time.

    Args:
        empty_seconds: what a message without content takes.
    """
    num_bytes, deadline = _FIRST_BYTES, time.perf_counter() + seconds
    while True:
        # The better of two: one that was held up must not look like a slow link.
        taken = min(talk.ask(what, num_bytes), talk.ask(what, num_bytes))
        left = deadline - time.perf_counter()
        if num_bytes == MOST_BYTES or 2 * _GROWTH * taken > left:
            break
        num_bytes = min(MOST_BYTES, _GROWTH * num_bytes)
    times = [taken]
    while len(times) < _MOST_MESSAGES and deadline - time.perf_counter() > taken:
        times.append(talk.ask(what, num_bytes))
    net = statistics.median(times) - empty_seconds
    return 8 * num_bytes / max(net, statistics.median(times) / 2)
