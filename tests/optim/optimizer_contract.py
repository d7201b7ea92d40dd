"""What every optimizer must do: each step is its recursion, and restored it goes on as before.

What a compressor makes of a vector is checked by its own tests. Here NumPy works out what each
node has to compress; that is what the optimizer's compressor was given, to 1e-6, and from what the
compressor made of it NumPy's step gives the optimizer's next state, to 1e-6. From the start on,
with nothing of the optimizer but its messages, NumPy's x after all steps is the optimizer's to 1e-5
(float32's rounding adds up).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from pcode.communication import Communicator, Simulation
from pcode.compression import make_compressor
from pcode.optim import DecentralizedOptimizer
from pcode.topology import make_topology
from tests.optim.optimizers_by_hand import Case, Given, ecd, lead, same_start
from tests.optim.recursions import (
    LR,
    NUM_STEPS,
    Array,
    Recorder,
    State,
    Tensors,
    far,
    gradients,
    local_options,
    run,
)


def _check_steps(
    case: Case, states: list[State], recorders: list[Recorder], W: Array, nesterov: bool
) -> None:
    """Every step, from the optimizer's own state before it, and all of them without it."""
    num_nodes, alone = len(W), states[0]
    num_messages = len(recorders[0].made) // NUM_STEPS
    for number in range(NUM_STEPS):
        of_step = range(num_messages * number, num_messages * (number + 1))
        made = [np.stack([recorder.made[each] for recorder in recorders]) for each in of_step]
        # ECD's extrapolation multiplies the rounding of x by t / 2.
        grown = (number + 1) / 2 if case.step is ecd else 1.0
        rounded = grown * np.abs(states[number]["x"]).max()
        messages, replayed = iter(of_step), iter(made)

        def compress(v: Array, messages: Iterator[int] = messages, rounded: Any = rounded) -> Array:
            each = next(messages)
            of_movement = num_messages == 2 and each % 2 == 1  # BEER's y
            scale = max(np.abs(v).max(), rounded / LR if of_movement else rounded)
            for rank, recorder in enumerate(recorders):
                assert np.abs(recorder.given[each] - v[rank]).max() <= 1e-6 * scale
            return np.stack([recorder.made[each] for recorder in recorders])

        def replay(v: Array, replayed: Iterator[Array] = replayed) -> Array:
            return next(replayed)

        g = gradients(number, num_nodes)
        alone = case.step(alone, g, Given(number + 1, replay, W, nesterov))
        forced = case.step(states[number], g, Given(number + 1, compress, W, nesterov))
        assert forced.keys() == states[number + 1].keys()
        largest = max(np.abs(v).max() for v in (forced["x"], *made))
        for name, got in states[number + 1].items():
            # Sums of vectors of the size of x or q, or of movements of x over the rate: their
            # rounding is those vectors'.
            of_movement = "d" in forced and name in ("d", "y", "hat_y", "z_y")
            scale = max(np.abs(forced[name]).max(), largest / LR if of_movement else largest)
            assert np.abs(got - forced[name]).max() <= 1e-6 * scale, (name, number)
    largest = max(np.abs(state["x"]).max() for state in states)
    # LEAD's e sums the rounding of messages, and x that of e.
    grown = 3.0 if case.step is lead else 1.0
    assert np.abs(states[-1]["x"] - alone["x"]).max() <= 1e-5 * grown * largest


def check_recursion(
    case: Case, compression: str, options: dict[str, Any], graph: tuple[str, int]
) -> None:
    """The optimizer takes the case's steps, with a compressor, on a graph of n nodes.

    Raises:
        AssertionError: it does not.
    """
    topology = make_topology(*graph)
    nesterov = graph[1] == 8
    recorders = [Recorder(make_compressor(compression, **options)) for _ in range(graph[1])]
    states = run(
        lambda model, node: case.optimizer(
            model.parameters(),
            node,
            topology,
            compressor=recorders[node.rank],
            seed=5,
            **local_options(nesterov),
            **case.options,
        ),
        graph[1],
        start=case.start,
    )
    _check_steps(case, states, recorders, topology.matrix, nesterov)
    # Unbiased sparsification may diverge: the steps are right nevertheless.
    assert far(states[-1]["x"], states[0]["x"]) > 0.01
    if case.centralized:
        assert all((x == states[-1]["x"][0]).all() for x in states[-1]["x"])


def check_restored(case: Case) -> None:
    """An optimizer that took over a state goes on with the bits of the one that left it.

    Raises:
        AssertionError: it does not.
    """
    topology = make_topology(*case.graphs[0])

    def start(communicator: Communicator) -> tuple[Tensors, DecentralizedOptimizer]:
        model = Tensors(same_start(0))
        compressor = make_compressor("compress_random_k", compress_ratio=0.5)
        optimizer = case.optimizer(
            model.named_parameters(),
            communicator,
            topology,
            compressor=compressor,
            seed=5,
            **local_options(True),
            **({} if case.centralized else {"local_step": 3}),
            **case.options,
        )
        return model, optimizer

    check_goes_on(start)


def check_goes_on(start: Callable[[Communicator], tuple[Tensors, DecentralizedOptimizer]]) -> None:
    """As `check_restored`, of what is started on each of 4 nodes."""

    def node(communicator: Communicator) -> None:
        def train(model: Tensors, optimizer: DecentralizedOptimizer, steps: range) -> None:
            for step in steps:
                optimizer.zero_grad()
                model.give_gradient(gradients(step, 4)[communicator.rank])
                optimizer.step()

        model, optimizer = start(communicator)
        train(model, optimizer, range(7))
        kept, x = copy.deepcopy(optimizer.state_dict()), optimizer.x.clone()
        train(model, optimizer, range(7, 20))
        other_model, other = start(communicator)
        train(other_model, other, range(3))  # with overlap, a round is under way then
        other.load_state_dict(kept)
        other.x.copy_(x)
        train(other_model, other, range(7, 20))
        want, got = optimizer.state_dict(), other.state_dict()
        assert torch.equal(other.x, optimizer.x)
        assert all(
            torch.equal(got["vectors"][key], want["vectors"][key]) for key in want["vectors"]
        )
        assert not torch.equal(other.x, x)

    Simulation(4).run(node)
