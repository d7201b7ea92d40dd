"""The edges of a run's graph: latency and bandwidth of each over the run's own backend."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pcode.communication import Communicator
from pcode.topology import Graph, without_losses
from pcode.utils.errors import CommunicationError
from pcode.utils.tables import aligned

Edge = tuple[int, int]

# Of a graph that never repeats itself.
MAX_ROUNDS = 32
MAX_BYTES = 4 << 20
_FIRST_BYTES = 1 << 14
_GROWTH = 4
_MIN_PINGS, _MAX_PINGS = 5, 50
_WARM_UP = 3
_MAX_MESSAGES = 5
_MAX_SECONDS, _MIN_SECONDS = 0.8, 0.02  # of a round
# For all edges. What was slow is measured again, so many times: something else may have been busy.
_ALL_SECONDS = 40.0
_MORE_TRIALS, _MORE_SECONDS = 4, 10.0
# Beyond that many, the slowest, the median and the fastest of each kind stand for all.
MAX_ROWS = 16
_TIMES = 4
# What is better is not called slow: the machine makes such differences, not the network.
_WITHIN, _BETWEEN = "within a host", "between hosts"
_ENOUGH_BANDWIDTH = {_WITHIN: 1e9, _BETWEEN: float("inf")}
_ENOUGH_LATENCY_SECONDS = {_WITHIN: 5e-3, _BETWEEN: 5e-4}


def edges_of(graph: Graph, num_local_ranks: int = 1) -> list[Edge]:
    """Return every pair of ranks that talk, as (i, j) with i < j, sorted.

    Of a graph that varies in time, those of its period, or of its first rounds. Of each node's
    ranks the first one talks to other nodes.
    """
    graph = without_losses(graph)
    pairs = {
        (min(rank, other), max(rank, other))
        for step in range(graph.period or MAX_ROUNDS)
        for rank in range(graph.num_nodes)
        for other in graph.at(step).receivers(rank)
    }
    return [(num_local_ranks * i, num_local_ranks * j) for i, j in sorted(pairs)]


def schedule(edges: Sequence[Edge], hosts: Sequence[str]) -> list[list[Edge]]:
    """Return rounds of edges, no two of which share a host (of each rank): a link or a core."""
    rounds: list[tuple[list[Edge], set[str]]] = []
    for edge in edges:
        ends = {hosts[rank] for rank in edge}
        members, busy = next((each for each in rounds if not each[1] & ends), ([], set()))
        if not members:
            rounds.append((members, busy))
        members.append(edge)
        busy |= ends
    return [members for members, _ in rounds]


@dataclass(frozen=True)
class Measured:
    """What was measured on an edge (i, j).

    Attributes:
        latency_seconds: half of a small message's round trip, median.
        min_latency_seconds: the same at its shortest, which no busy core makes longer.
        there, back: bits a second from i to j, and from j to i.
    """

    edge: Edge
    latency_seconds: float
    min_latency_seconds: float
    there: float
    back: float

    @property
    def bandwidth(self) -> float:
        """Bits a second, of the slower direction."""
        return min(self.there, self.back)

    def message_seconds(self, num_bytes: int) -> float:
        """Return how long a message takes."""
        return self.latency_seconds + 8 * num_bytes / self.bandwidth

    def better(self, other: Measured) -> Measured:
        """Return the best of two measurements: what disturbs only makes slower."""
        return Measured(
            self.edge,
            min(self.latency_seconds, other.latency_seconds),
            min(self.min_latency_seconds, other.min_latency_seconds),
            max(self.there, other.there),
            max(self.back, other.back),
        )


@dataclass(eq=False)
class EdgeError(Exception):
    """No answer on an edge: what came instead, after how long."""

    edge: Edge
    seconds: float
    cause: CommunicationError


def measure_all(
    communicator: Communicator, edges: Sequence[Edge], hosts: Sequence[str]
) -> list[Measured]:
    """Measure every edge, and those that are slow again; return the best of it.

    All ranks call it, and get the same. Edges that share a host (`hosts` are the ranks') are
    measured one after another.

    Raises:
        EdgeError: on both ends of an edge that does not answer, and of those that were being
            measured when another failed.
        CommunicationError: on the other ranks.
    """
    found = {one.edge: one for one in _measure(communicator, edges, hosts, _ALL_SECONDS)}
    for _ in range(_MORE_TRIALS):
        again = list(slow(list(found.values()), hosts))
        for one in _measure(communicator, again, hosts, _MORE_SECONDS) if again else ():
            found[one.edge] = found[one.edge].better(one)
    return list(found.values())


def _measure(
    communicator: Communicator, edges: Sequence[Edge], hosts: Sequence[str], all_seconds: float
) -> list[Measured]:
    """Measure every edge, within so many seconds if the rounds are not too many."""
    rounds = schedule(edges, hosts)
    seconds = min(_MAX_SECONDS, max(_MIN_SECONDS, all_seconds / max(1, len(rounds))))
    found = torch.zeros(len(edges), 4, dtype=torch.float64)
    place = {edge: index for index, edge in enumerate(edges)}
    for members in rounds:
        own = next((edge for edge in members if communicator.rank in edge), None)
        if own is None:
            time.sleep(seconds)  # whoever waits in a barrier may take a core from the others
        else:
            row = _measure_one(communicator, own, seconds)
            found[place[own]] = torch.tensor(row, dtype=torch.float64)
        barrier(communicator)
    communicator.all_reduce(found)
    return [Measured(edge, *found[index].tolist()) for edge, index in place.items()]


def barrier(communicator: Communicator) -> None:
    """Return when all ranks have come; unlike others, this barrier names who has not."""
    tokens = {rank: torch.zeros(1, dtype=torch.uint8) for rank in range(communicator.size)}
    own = tokens.pop(communicator.rank)
    if communicator.rank == 0:
        communicator.exchange({}, tokens).wait()
        communicator.exchange(tokens, {}).wait()
    else:
        communicator.exchange({0: own}, {}).wait()
        communicator.exchange({}, {0: own}).wait()


def _measure_one(
    communicator: Communicator, edge: Edge, seconds: float
) -> tuple[float, float, float, float]:
    """Be one end of an edge; return what was found, or zeros at the end that only answers."""
    begin, (one, other) = time.monotonic(), edge
    try:
        if communicator.rank == one:
            return _Channel(communicator, other).ask(seconds)
        _Channel(communicator, one).answer()
    except CommunicationError as error:
        raise EdgeError(edge, time.monotonic() - begin, error) from error
    return 0.0, 0.0, 0.0, 0.0


class _Channel:
    """One end of an edge. The lower rank asks, the other answers."""

    def __init__(self, communicator: Communicator, peer: int) -> None:
        self._communicator, self._peer = communicator, peer
        self._buffer = torch.zeros(MAX_BYTES, dtype=torch.uint8)

    def _send(self, tensor: torch.Tensor) -> None:
        self._communicator.exchange({self._peer: tensor}, {}).wait()

    def _receive(self, tensor: torch.Tensor) -> None:
        self._communicator.exchange({}, {self._peer: tensor}).wait()

    def _round_trip(self, there: int = 0, back: int = 1) -> float:
        """Let so many bytes go there, then so many come back; return the seconds that it takes."""
        begin = time.perf_counter()
        self._send(torch.tensor([there, back]))
        if there:
            self._send(self._buffer[:there])
        self._receive(self._buffer[:back])
        return time.perf_counter() - begin

    def answer(self) -> None:
        """Do what the other end asks for, until it asks for nothing back."""
        sizes = torch.zeros(2, dtype=torch.int64)
        while True:
            self._receive(sizes)
            there, back = sizes.tolist()
            if back == 0:
                return
            if there:
                self._receive(self._buffer[:there])
            self._send(self._buffer[:back])

    def ask(self, seconds: float) -> tuple[float, float, float, float]:
        """Return latency, median and least, and bits a second there and back, in about so long."""
        for _ in range(_WARM_UP):
            self._round_trip()
        begin = time.perf_counter()
        pings: list[float] = []
        while len(pings) < _MIN_PINGS or (
            len(pings) < _MAX_PINGS and time.perf_counter() - begin < seconds / 5
        ):
            pings.append(self._round_trip())
        ping = statistics.median(pings)
        there = _rate(lambda num_bytes: self._round_trip(there=num_bytes), ping, 0.4 * seconds)
        back = _rate(lambda num_bytes: self._round_trip(back=num_bytes), ping, 0.4 * seconds)
        self._send(torch.tensor([0, 0]))
        return ping / 2, min(pings) / 2, there, back


def _rate(transfer: Callable[[int], float], empty_seconds: float, seconds: float) -> float:
    """Return bits a second, of messages that grow until one takes a good part of the time."""
    num_bytes, deadline = _FIRST_BYTES, time.perf_counter() + seconds
    while True:
        # The better of two: one that was held up must not look like a slow link.
        taken = min(transfer(num_bytes), transfer(num_bytes))
        left = deadline - time.perf_counter()
        if num_bytes == MAX_BYTES or 2 * _GROWTH * taken > left:
            break
        num_bytes = min(MAX_BYTES, _GROWTH * num_bytes)
    times = [taken]
    while len(times) < _MAX_MESSAGES and deadline - time.perf_counter() > taken:
        times.append(transfer(num_bytes))
    net = statistics.median(times) - empty_seconds
    return 8 * num_bytes / max(net, statistics.median(times) / 2)


def _by_kind(found: Sequence[Measured], hosts: Sequence[str]) -> dict[str, list[Measured]]:
    """Split edges into those between two hosts and those within one: only likes are compared."""
    split: dict[str, list[Measured]] = {}
    for edge in found:
        i, j = edge.edge
        split.setdefault(_WITHIN if hosts[i] == hosts[j] else _BETWEEN, []).append(edge)
    return split


def slow(found: Sequence[Measured], hosts: Sequence[str]) -> dict[Edge, str]:
    """Return slow edges, of a quarter of their kind's median bandwidth or four times its latency.

    With each comes beside what it is slow.
    """
    reasons: dict[Edge, str] = {}
    for kind, members in _by_kind(found, hosts).items():
        bandwidth = statistics.median(edge.bandwidth for edge in members)
        latency = statistics.median(edge.min_latency_seconds for edge in members)
        narrow = min(bandwidth / _TIMES, _ENOUGH_BANDWIDTH[kind])
        late = max(_TIMES * latency, _ENOUGH_LATENCY_SECONDS[kind])
        for edge in members:
            if edge.bandwidth < narrow:
                own, median = f"{_mbit(edge.bandwidth)} Mbit/s", _mbit(bandwidth)
            elif edge.min_latency_seconds > late:
                own = f"{1e3 * edge.min_latency_seconds:.3g} ms at least to answer"
                median = f"{1e3 * latency:.3g}"
            else:
                continue
            reasons[edge.edge] = f"{own}; the median {kind} is {median}"
    return reasons


def named(edge: Edge, hosts: Sequence[str]) -> str:
    """Name an edge by its ranks and their hosts."""
    one, other = (hosts[rank] for rank in edge)
    places = f"on {one}" if one == other else f"{one} and {other}"
    return f"ranks {edge[0]} and {edge[1]} ({places})"


def table(found: Sequence[Measured], hosts: Sequence[str], message_bytes: int) -> list[str]:
    """Return latency, bandwidth and the time of the run's message, an edge a line, in columns."""
    shown = [(edge, "") for edge in found]
    if len(found) > MAX_ROWS:
        shown = []
        for kind, members in _by_kind(found, hosts).items():
            ordered = sorted(members, key=lambda edge: -edge.message_seconds(message_bytes))
            at = {"slowest": 0, "median": len(ordered) // 2, "fastest": -1}
            shown += [(ordered[index], f" ({word} {kind})") for word, index in at.items()]
    rows = [("ranks", "hosts", "latency ms", "Mbit/s there", "Mbit/s back", "message ms")]
    for edge, note in shown:
        i, j = edge.edge
        places = ", ".join(dict.fromkeys((hosts[i], hosts[j]))) + note
        latency = f"{1e3 * edge.latency_seconds:.3f}"
        message = f"{1e3 * edge.message_seconds(message_bytes):.3g}"
        rows.append((f"{i}-{j}", places, latency, _mbit(edge.there), _mbit(edge.back), message))
    return aligned(rows, rows[0][:2])


def _mbit(bits: float) -> str:
    return f"{bits / 1e6:,.0f}" if bits >= 1e8 else f"{bits / 1e6:.3g}"
