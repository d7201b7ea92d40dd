"""The time of a training step over a network, predicted: pure arithmetic, nothing is measured here.

In steady state everyone waits for the slowest: a node that is ahead waits for its neighbours'
messages, they for theirs, and so on. The step is therefore that of the slowest way between two
nodes. What is left out: packets take time of the cores that compute, which counts where hosts have
few cores or links are faster than some Gbit/s; a connection that was idle begins slowly, which
takes some round trips and counts where they are long; and nodes differ from step to step.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pcode.check.edges import MAX_ROUNDS, Edge, Measured
from pcode.topology import Graph

# Of an Ethernet frame of 1514 bytes, what TCP with timestamps carries: its MSS.
MSS_BYTES, FRAME_BYTES = 1448, 1514
# Mathis et al., "The macroscopic behavior of the TCP congestion avoidance algorithm", CCR 1997:
# sqrt(3/2), where every packet is acknowledged.
MATHIS = 1.22
# Of a round trip, which no latency given as 0 makes shorter: Ethernet, a switch, and two kernels
# that wake up a process.
LEAST_ROUND_TRIP_SECONDS = 1e-4


@dataclass(frozen=True)
class Cost:
    """What a method costs a node, whatever the network.

    Attributes:
        message_bytes: of a message to one neighbour in a round; of the vector that is reduced.
        pass_seconds: what the optimizer computes in a step with an exchange.
        local_seconds: a local step without one.
        local_steps: from one exchange to the next, that with the exchange included.
        rounds: of messages in an exchange, one after another.
        hidden_rounds: the last ones of these, for which the optimizer waits only when it comes to
            the next exchange: 0 or 1.
        reduces: an all-reduce in place of messages to neighbours.
    """

    message_bytes: int
    pass_seconds: float
    local_seconds: float = 0.0
    local_steps: int = 1
    rounds: int = 1
    hidden_rounds: int = 0
    reduces: bool = False


@dataclass(frozen=True)
class Prediction:
    """Seconds of a step and of its parts, the mean over the steps from exchange to exchange."""

    gradient_seconds: float
    pass_seconds: float
    waiting_seconds: float

    @property
    def step_seconds(self) -> float:
        return self.gradient_seconds + self.pass_seconds + self.waiting_seconds


@dataclass(frozen=True)
class Way:
    """One direction of an edge: seconds until a first byte arrives, and bits a second alone.

    Bits are those of messages: headers are subtracted.
    """

    latency_seconds: float
    bits: float


@dataclass(frozen=True)
class Network:
    """Hosts, each with one link, full duplex, which all ways to and from other hosts share.

    Attributes:
        hosts: of each node.
        links: host -> bits a second of messages, in each direction.
        ways: those that are known, from the first to the second node.
        other: any other way between two hosts. One within a host takes no time.
        most_bits: of one connection, whatever the link (`mathis_bits`).
    """

    hosts: tuple[str, ...]
    links: Mapping[str, float]
    ways: Mapping[Edge, Way]
    other: Way
    most_bits: float = math.inf

    def crosses(self, edge: Edge) -> bool:
        """Return whether it leads from one host to another."""
        return self.hosts[edge[0]] != self.hosts[edge[1]]

    def at_rate(self, bits: float) -> Network:
        """Return the same with links of so many bits a second on the wire, headers included."""
        payload = bits * MSS_BYTES / FRAME_BYTES
        alone = min(payload, self.most_bits)
        ways = {
            edge: dataclasses.replace(way, bits=alone) if self.crosses(edge) else way
            for edge, way in self.ways.items()
        }
        links = dict.fromkeys(self.hosts, payload)
        other = dataclasses.replace(self.other, bits=alone)
        return dataclasses.replace(self, links=links, ways=ways, other=other)

    @property
    def wire_mbit(self) -> float:
        """Mbit/s of a link on the wire, headers included, the median; infinite without links."""
        return statistics.median(self.links.values()) * FRAME_BYTES / MSS_BYTES / 1e6

    def seconds(self, loads: Mapping[Edge, float]) -> float:
        """Return when the last of these messages, in bytes, is there, if all start at once.

        A way takes its latency, and as long as the busiest of itself and of the links at its ends.
        """
        sent, received = (dict.fromkeys(self.hosts, 0.0) for _ in range(2))
        for edge, load in loads.items():
            if self.crosses(edge):
                sent[self.hosts[edge[0]]] += load
                received[self.hosts[edge[1]]] += load

        def one(edge: Edge, load: float) -> float:
            if not self.crosses(edge):
                way = self.ways.get(edge, Way(0.0, math.inf))
                return way.latency_seconds + 8 * load / way.bits
            way, (i, j) = self.ways.get(edge, self.other), (self.hosts[node] for node in edge)
            busiest = max(load / way.bits, sent[i] / self.links[i], received[j] / self.links[j])
            return way.latency_seconds + 8 * busiest

        return max((one(edge, load) for edge, load in loads.items()), default=0.0)


def mathis_bits(round_trip_seconds: float, loss: float) -> float:
    """Return what a TCP connection carries at most, in bits a second: MSS / RTT 1.22 / sqrt(loss).

    That is Reno's; a congestion control that does not go by losses, as BBR, may be faster.
    """
    round_trip = max(round_trip_seconds, LEAST_ROUND_TRIP_SECONDS)
    return 8 * MSS_BYTES * MATHIS / (round_trip * math.sqrt(loss)) if loss > 0 else math.inf


def given(
    hosts: Sequence[str], rate_bits: float, latency_seconds: float, loss: float = 0.0
) -> Network:
    """Return a network of equal links.

    Args:
        hosts: of each node.
        rate_bits: a second, of a link in each direction, on the wire; may be infinite.
        latency_seconds: one way.
        loss: the share of packets that are lost.
    """
    most = mathis_bits(2 * latency_seconds, loss)
    return Network(tuple(hosts), {}, {}, Way(latency_seconds, math.inf), most).at_rate(rate_bits)


def measured(hosts: Sequence[str], found: Sequence[Measured]) -> Network:
    """Return the network of measured edges: a host's link is as fast as the best of them there.

    Where loss and distance, and not the link, limit a connection, two of them at once are faster
    than that.
    """
    ways: dict[Edge, Way] = {}
    for each in found:
        (i, j), latency = each.edge, each.latency_seconds
        ways |= {(i, j): Way(latency, each.there), (j, i): Way(latency, each.back)}
    bare = Network(tuple(hosts), {}, ways, Way(0.0, math.inf))
    crossing = {edge: way for edge, way in ways.items() if bare.crosses(edge)}
    links = dict.fromkeys(hosts, math.inf) if not crossing else {}
    for edge, way in crossing.items():
        for host in (hosts[node] for node in edge):
            links[host] = max(links.get(host, 0.0), way.bits)
    latency = max((way.latency_seconds for way in crossing.values()), default=0.0)
    return dataclasses.replace(bare, links=links, other=Way(latency, math.inf))


def _rounds(graph: Graph) -> list[list[Edge]]:
    """Return who sends to whom in each round until the graph repeats itself."""
    nodes = range(graph.num_nodes)
    return [
        [(node, peer) for node in nodes for peer in graph.at(step).receivers(node)]
        for step in range(graph.period or MAX_ROUNDS)
    ]


def sent_bytes(cost: Cost, graph: Graph) -> float:
    """Return what a node sends in a step, the mean over steps, of the node that sends the most."""
    n = graph.num_nodes
    if cost.reduces:
        return 2 * (n - 1) / n * cost.message_bytes / cost.local_steps
    rounds = _rounds(graph)
    degrees = Counter(node for edges in rounds for node, _ in edges)
    most = max(degrees.values(), default=0) / len(rounds)
    return most * cost.rounds * cost.message_bytes / cost.local_steps


def round_seconds(cost: Cost, graph: Graph, network: Network) -> float:
    """Return how long a round of messages takes, the mean over those of a graph that varies.

    All-reduce is that around a ring of all nodes: 2 (n - 1) times, everyone sends an n-th.
    """
    n = graph.num_nodes
    if cost.reduces:
        pieces = {(node, (node + 1) % n): cost.message_bytes / n for node in range(n)}
        return 2 * (n - 1) * network.seconds(pieces)
    rounds = _rounds(graph)
    return statistics.fmean(
        network.seconds(dict.fromkeys(edges, cost.message_bytes)) for edges in rounds
    )


def predict(cost: Cost, gradient_seconds: float, graph: Graph, network: Network) -> Prediction:
    """Predict a step.

    From one exchange to the next come H gradients, H - 1 local steps and a pass that exchanges; a
    round that is hidden goes on during the gradients and local steps until the next pass:

    H step = H gradient + (H - 1) local + pass
             + (rounds - hidden) round + hidden max(0, round - H gradient - (H - 1) local)

    Args:
        gradient_seconds: forward and backward, on the slowest node.
        graph: of the run, whatever the method; all-reduce does not follow it.
    """
    steps, exchange = cost.local_steps, round_seconds(cost, graph, network)
    local = (steps - 1) * cost.local_seconds
    waiting = (cost.rounds - cost.hidden_rounds) * exchange
    waiting += cost.hidden_rounds * max(0.0, exchange - steps * gradient_seconds - local)
    return Prediction(gradient_seconds, (local + cost.pass_seconds) / steps, waiting / steps)
