"""D-PSGD on graphs that change from round to round, against NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from pcode.communication import Communicator, Simulation
from pcode.optim import DPSGD
from pcode.topology import Graph, make_graph

Array = npt.NDArray[np.float64]

NUM_STEPS, NUM_ENTRIES, LR = 20, 7, 0.1


def draw(*numbers: int) -> Array:
    values = np.random.default_rng(numbers).normal(size=NUM_ENTRIES)
    return values.astype(np.float32).astype(np.float64)


def train(graph: Graph, steps_between: int = 1) -> list[tuple[Array, int, int]]:
    """Every node's last model, the bytes it sent and the receive buffers that it holds."""

    def node(communicator: Communicator) -> tuple[Array, int, int]:
        parameter = nn.Parameter(torch.tensor(draw(communicator.rank), dtype=torch.float32))
        optimizer = DPSGD([parameter], communicator, graph, lr=LR, local_step=steps_between)
        for step in range(NUM_STEPS):
            parameter.grad = torch.tensor(draw(step, communicator.rank, 3), dtype=torch.float32)
            optimizer.step()
        x = parameter.detach().double().numpy()
        return x, communicator.bytes_sent, len(optimizer.gossip.received)

    return Simulation(graph.num_nodes).run(node)


def expected(graph: Graph, steps_between: int = 1) -> Array:
    """x <- W_t (x - lr g), written with each node's weights."""
    num_nodes, exchanges = graph.num_nodes, 0
    x = np.stack([draw(rank) for rank in range(num_nodes)])
    for step in range(NUM_STEPS):
        x = x - LR * np.stack([draw(step, rank, 3) for rank in range(num_nodes)])
        if (step + 1) % steps_between == 0:
            mixing = graph.at(exchanges)
            rows = [mixing.weights(rank) for rank in range(num_nodes)]
            x = np.stack([np.sum([w * x[j] for j, w in row.items()], axis=0) for row in rows])
            exchanges += 1
    return x


@pytest.mark.parametrize("steps_between", [1, 3])
@pytest.mark.parametrize("num_nodes", [1, 4, 5, 8])
@pytest.mark.parametrize("name", ["one_peer_exponential", "random_matching"])
def test_d_psgd_mixes_with_the_weights_of_the_round(
    name: str, num_nodes: int, steps_between: int
) -> None:
    graph = make_graph(name, num_nodes, seed=6)
    got = np.stack([x for x, _, _ in train(graph, steps_between)])
    np.testing.assert_allclose(got, expected(graph, steps_between), atol=1e-6)


def test_a_node_sends_to_one_and_keeps_one_buffer() -> None:
    for _, sent, num_buffers in train(make_graph("one_peer_exponential", 8)):
        assert sent == NUM_STEPS * 4 * NUM_ENTRIES
        assert num_buffers == 1
