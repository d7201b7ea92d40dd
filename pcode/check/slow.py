"""Which edges are slow beside the others of their kind, and the table of all."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from pcode.check.edges import Measured
from pcode.check.rounds import Edge

# Beyond that many, the slowest, the median and the fastest of each kind stand for all.
MOST_ROWS = 16
_TIMES = 4
# What is better is not called slow: the machine makes such differences, not the network.
_WITHIN, _BETWEEN = "within a host", "between hosts"
_ENOUGH_BANDWIDTH = {_WITHIN: 1e9, _BETWEEN: float("inf")}
_ENOUGH_LATENCY_SECONDS = {_WITHIN: 5e-3, _BETWEEN: 5e-4}


def kinds(found: Sequence[Measured], hosts: Sequence[str]) -> dict[str, list[Measured]]:
    """Edges between two hosts, and those within one: only likes are compared."""
    split: dict[str, list[Measured]] = {}
    for edge in found:
        here = hosts[edge.edge[0]] == hosts[edge.edge[1]]
        split.setdefault(_WITHIN if here else _BETWEEN, []).append(edge)
    return split


def slow(found: Sequence[Measured], hosts: Sequence[str]) -> dict[Edge, str]:
    """Slow edges, and beside what they are slow.

    An edge with a quarter of the median bandwidth of its kind, or four times the median latency.

    Args:
        hosts: of each rank.
    """
    reasons: dict[Edge, str] = {}
    for kind, members in kinds(found, hosts).items():
        bandwidth = statistics.median(edge.bandwidth for edge in members)
        latency = statistics.median(edge.least_seconds for edge in members)
        narrow = min(bandwidth / _TIMES, _ENOUGH_BANDWIDTH[kind])
        late = max(_TIMES * latency, _ENOUGH_LATENCY_SECONDS[kind])
        for edge in members:
            if edge.bandwidth < narrow:
                reasons[edge.edge] = (
                    f"{_mbit(edge.bandwidth)} Mbit/s; the median {kind} is {_mbit(bandwidth)}"
                )
            elif edge.least_seconds > late:
                reasons[edge.edge] = (
                    f"{1e3 * edge.least_seconds:.3g} ms at least to answer; the median {kind} is "
                    f"{1e3 * latency:.3g}"
                )
    return reasons


def named(edge: Edge, hosts: Sequence[str]) -> str:
    """An edge in words, by its ranks and their hosts."""
    one, other = (hosts[rank] for rank in edge)
    places = f"on {one}" if one == other else f"{one} and {other}"
    return f"ranks {edge[0]} and {edge[1]} ({places})"


def table(found: Sequence[Measured], hosts: Sequence[str], message_bytes: int) -> list[str]:
    """Latency, bandwidth and the time of the run's message, an edge a line, in columns."""
    head = ("ranks", "hosts", "latency ms", "Mbit/s there", "Mbit/s back", "message ms")
    body = [_cells(edge, hosts, message_bytes, "") for edge in found]
    if len(found) > MOST_ROWS:
        body = list(_summary(found, hosts, message_bytes))
    columns = list(zip(head, *body, strict=True))
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *body)
    ]


def slowest(found: Sequence[Measured], message_bytes: int) -> Measured:
    """The edge on which a message takes the longest."""
    return max(found, key=lambda edge: edge.message_seconds(message_bytes))


def _summary(
    found: Sequence[Measured], hosts: Sequence[str], message_bytes: int
) -> Iterator[tuple[str, ...]]:
    """The slowest, the median and the fastest edge of each kind."""
    for kind, members in kinds(found, hosts).items():
        ordered = sorted(members, key=lambda edge: -edge.message_seconds(message_bytes))
        shown = {"slowest": 0, "median": len(ordered) // 2, "fastest": len(ordered) - 1}
        for word, place in shown.items():
            yield _cells(ordered[place], hosts, message_bytes, f" ({word} {kind})")


def _cells(edge: Measured, hosts: Sequence[str], message_bytes: int, note: str) -> tuple[str, ...]:
    i, j = edge.edge
    places = hosts[i] if hosts[i] == hosts[j] else f"{hosts[i]}, {hosts[j]}"
    return (
        f"{i}-{j}",
        places + note,
        f"{1e3 * edge.latency_seconds:.3f}",
        _mbit(edge.there),
        _mbit(edge.back),
        f"{1e3 * edge.message_seconds(message_bytes):.3g}",
    )


def _mbit(bits: float) -> str:
    return f"{bits / 1e6:,.0f}" if bits >= 1e8 else f"{bits / 1e6:.3g}"
