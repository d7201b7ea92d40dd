"""The predicted time of a step against cases worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from pcode.check.edges import Measured
from pcode.tools.advise_network import (
    Cost,
    Network,
    given,
    mathis_bits,
    measured,
    predict,
    round_seconds,
    sent_bytes,
)
from pcode.topology import make_graph, make_topology

RING = make_topology("ring", 4, 6)
HOSTS = "abcd"
# 1,158,000 bytes to each of two neighbours, with 1448 of 1514 bytes of a frame for them, at 100
# Mbit/s: 2 x 9.264 Mbit / 95.640687 Mbit/s.
SIGN = Cost(1_158_000, pass_seconds=0.03, local_seconds=0.02, hidden_rounds=1)
SIGN_SECONDS = 0.193725


def hundred(latency_seconds: float = 0.001, loss: float = 0.0) -> Network:
    return given(HOSTS, 100e6, latency_seconds, loss)


def test_a_hidden_exchange_costs_nothing_while_the_gradient_is_longer() -> None:
    found = predict(SIGN, 0.25, RING, hundred())
    assert found.step_seconds == pytest.approx(0.28)
    assert (found.gradient_seconds, found.pass_seconds, found.waiting_seconds) == (0.25, 0.03, 0)


def test_what_is_longer_than_the_gradient_is_waited_for() -> None:
    found = predict(SIGN, 0.1, RING, hundred())
    assert found.waiting_seconds == pytest.approx(SIGN_SECONDS + 0.001 - 0.1, rel=1e-5)


def test_an_exchange_that_is_not_hidden_is_added() -> None:
    found = predict(replace(SIGN, hidden_rounds=0), 0.25, RING, hundred())
    assert found.step_seconds == pytest.approx(0.28 + SIGN_SECONDS + 0.001, rel=1e-5)


def test_local_steps_share_a_pass_and_hide_together() -> None:
    # 10 Mbit/s: 1.93725 s against 4 gradients and 3 local steps, 1.06 s.
    found = predict(replace(SIGN, local_steps=4), 0.25, RING, given(HOSTS, 10e6, 0.001))
    assert found.pass_seconds == pytest.approx((3 * 0.02 + 0.03) / 4)
    assert found.waiting_seconds == pytest.approx((1.93725 + 0.001 - 1.06) / 4, rel=1e-5)


def test_rounds_are_waited_for_but_for_the_last() -> None:
    found = predict(replace(SIGN, rounds=3), 0.25, RING, hundred())
    assert found.waiting_seconds == pytest.approx(2 * (SIGN_SECONDS + 0.001), rel=1e-5)


def test_all_reduce_goes_around_the_ring() -> None:
    # 6 times a quarter of 36,920,000 bytes, each with its latency.
    cost = Cost(36_920_000, 0.01, reduces=True)
    once = 8 * 9_230_000 * 1514 / 1448 / 100e6 + 0.001
    assert round_seconds(cost, RING, hundred()) == pytest.approx(6 * once)
    assert sent_bytes(cost, RING) == 1.5 * 36_920_000


def test_a_connection_that_loses_packets() -> None:
    # 1448 bytes x 1.22 / (20 ms x .1) = 883,280 bytes a second, of each of two neighbours.
    assert mathis_bits(0.02, 0.01) == pytest.approx(8 * 883_280)
    assert mathis_bits(0.0, 0.01) == pytest.approx(8 * 1448 * 1.22 / 1e-4 / 0.1)
    assert mathis_bits(0.02, 0) == math.inf
    found = round_seconds(SIGN, RING, hundred(0.01, 0.01))
    assert found == pytest.approx(1_158_000 / 883_280 + 0.01)


def edge(i: int, j: int, mbit: float, back: float | None = None, ms: float = 1.0) -> Measured:
    back = mbit if back is None else back
    return Measured((i, j), 1e-3 * ms, 1e-3 * ms, 1e6 * mbit, 1e6 * back)


def test_one_slow_edge_lets_all_wait() -> None:
    found = [edge(0, 1, 90), edge(1, 2, 4, back=90), edge(2, 3, 90), edge(0, 3, 90, ms=3)]
    network = measured(HOSTS, found)
    # What was measured is without headers. The link of each host has its best edge's 90 Mbit/s.
    assert round_seconds(SIGN, RING, network) == pytest.approx(9.264 / 4 + 0.001)
    usual = measured(HOSTS, [*found[::2], edge(1, 2, 90), edge(0, 3, 90, ms=3)])
    assert round_seconds(SIGN, RING, usual) == pytest.approx(2 * 9.264 / 90 + 0.003)


def test_nodes_of_a_host_share_its_link_and_do_without_it() -> None:
    hosts, between, within = "aabb", 100.0, 10_000.0
    pairs = {(0, 1): within, (1, 2): between, (2, 3): within, (0, 3): between}
    network = measured(hosts, [edge(i, j, mbit, ms=0.0) for (i, j), mbit in pairs.items()])
    # Two messages leave each host: those of its two nodes over the edges to the other host.
    assert round_seconds(SIGN, RING, network) == pytest.approx(2 * 9.264 / 100)
    alone = measured("aaaa", [edge(i, j, within, ms=0.0) for i, j in pairs])
    assert round_seconds(SIGN, RING, alone) == pytest.approx(9.264 / 10_000)
    assert math.isinf(alone.wire_mbit)


def test_another_rate_of_the_links() -> None:
    pairs = {(0, 1): 10_000.0, (1, 2): 90.0, (2, 3): 10_000.0, (0, 3): 80.0}
    network = measured("aabb", [edge(i, j, mbit) for (i, j), mbit in pairs.items()])
    assert network.wire_mbit == pytest.approx(90 * 1514 / 1448)
    slower = network.at_rate(10e6)
    assert slower.wire_mbit == pytest.approx(10)
    expected = 2 * 9.264e6 * 1514 / 1448 / 10e6 + 0.001
    assert round_seconds(SIGN, RING, slower) == pytest.approx(expected)


def test_a_node_sends_to_its_neighbours() -> None:
    star = make_topology("star", 5, 6)
    cost = replace(SIGN, local_steps=2, rounds=3)
    assert sent_bytes(cost, star) == 4 * 3 * 1_158_000 / 2
    assert sent_bytes(SIGN, RING) == 2 * 1_158_000
    one_peer = make_graph("one_peer_exponential", 4, 6, {})
    assert sent_bytes(SIGN, one_peer) == 1_158_000
    assert round_seconds(SIGN, one_peer, hundred(0.0)) == pytest.approx(SIGN_SECONDS / 2, rel=1e-5)


@for_all(
    rate=st.floats(1e5, 1e11),
    faster=st.floats(1, 100),
    latency=st.floats(0, 1),
    loss=st.floats(0, 0.5),
    cost=st.builds(
        Cost,
        st.integers(1, 10**9),
        st.floats(0, 1),
        st.floats(0, 1),
        st.integers(1, 8),
        st.just(1),
        st.integers(0, 1),
        st.booleans(),
    ),
)
def test_a_faster_link_is_never_slower(
    rate: float, faster: float, latency: float, loss: float, cost: Cost
) -> None:
    slow, fast = (given(HOSTS, each, latency, loss) for each in (rate, faster * rate))
    before, after = (predict(cost, 0.25, RING, network) for network in (slow, fast))
    assert after.step_seconds <= before.step_seconds
    assert after.step_seconds >= 0.25 + cost.pass_seconds / cost.local_steps
    assert math.isfinite(before.step_seconds)
    unlimited = predict(cost, 0.25, RING, given(HOSTS, math.inf, latency))
    assert unlimited.step_seconds <= after.step_seconds
