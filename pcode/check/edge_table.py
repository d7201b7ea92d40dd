"""Which edges are slow beside the others of their kind, and the table of all."""

import statistics
from collections.abc import Sequence

from pcode.check.edges import Edge, Measured
from pcode.utils.tables import aligned

# Beyond that many, the slowest, the median and the fastest of each kind stand for all.
MAX_ROWS = 16
_TIMES = 4
# What is better is not called slow: the machine makes such differences, not the network.
_WITHIN, _BETWEEN = "within a host", "between hosts"
_ENOUGH_BANDWIDTH = {_WITHIN: 1e9, _BETWEEN: float("inf")}
_ENOUGH_LATENCY_SECONDS = {_WITHIN: 5e-3, _BETWEEN: 5e-4}


def _kinds(found: Sequence[Measured], hosts: Sequence[str]) -> dict[str, list[Measured]]:
    """Split edges into those between two hosts and those within one: only likes are compared."""
    split: dict[str, list[Measured]] = {}
    for edge in found:
        i, j = edge.edge
        split.setdefault(_WITHIN if hosts[i] == hosts[j] else _BETWEEN, []).append(edge)
    return split


def slow(found: Sequence[Measured], hosts: Sequence[str]) -> dict[Edge, str]:
    """Return slow edges, and beside what they are slow.

    An edge with a quarter of the median bandwidth of its kind, or four times the median latency.

    Args:
        hosts: of each rank.
    """
    reasons: dict[Edge, str] = {}
    for kind, members in _kinds(found, hosts).items():
        bandwidth = statistics.median(edge.bandwidth for edge in members)
        latency = statistics.median(edge.min_latency_seconds for edge in members)
        narrow = min(bandwidth / _TIMES, _ENOUGH_BANDWIDTH[kind])
        late = max(_TIMES * latency, _ENOUGH_LATENCY_SECONDS[kind])
        for edge in members:
            if edge.bandwidth < narrow:
                reasons[edge.edge] = (
                    f"{_mbit(edge.bandwidth)} Mbit/s; the median {kind} is {_mbit(bandwidth)}"
                )
            elif edge.min_latency_seconds > late:
                reasons[edge.edge] = (
                    f"{1e3 * edge.min_latency_seconds:.3g} ms at least to answer; the median "
                    f"{kind} is {1e3 * latency:.3g}"
                )
    return reasons


def named(edge: Edge, hosts: Sequence[str]) -> str:
    """Name an edge by its ranks and their hosts."""
    one, other = (hosts[rank] for rank in edge)
    places = f"on {one}" if one == other else f"{one} and {other}"
    return f"ranks {edge[0]} and {edge[1]} ({places})"


def table(found: Sequence[Measured], hosts: Sequence[str], message_bytes: int) -> list[str]:
    """Return latency, bandwidth and the time of the run's message, an edge a line, in columns."""
    rows = [(edge, "") for edge in found]
    if len(found) > MAX_ROWS:
        rows = []
        for kind, members in _kinds(found, hosts).items():
            ordered = sorted(members, key=lambda edge: -edge.message_seconds(message_bytes))
            shown = {"slowest": 0, "median": len(ordered) // 2, "fastest": -1}
            rows += [(ordered[at], f" ({word} {kind})") for word, at in shown.items()]
    head = ("ranks", "hosts", "latency ms", "Mbit/s there", "Mbit/s back", "message ms")
    return aligned([head, *(_cells(*row, hosts, message_bytes) for row in rows)], head[:2])


def _cells(edge: Measured, note: str, hosts: Sequence[str], message_bytes: int) -> tuple[str, ...]:
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
