"""Local steps between exchanges, those of Adam, and what changes from epoch to epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pcode.compression import make_compressor
from pcode.optim import (
    DCDPSGD,
    DGC,
    DPSGD,
    ECDPSGD,
    AdamOptions,
    AllReduceSGD,
    DecentralizedOptimizer,
    ParallelChoco,
)
from pcode.topology import Topology, make_topology
from tests.optim.optimizers_by_hand import same_start
from tests.optim.recursions import (
    GAMMA,
    LR,
    NUM_ENTRIES,
    NUM_STEPS,
    WEIGHT_DECAY,
    State,
    Tensors,
    draw,
    far,
    gradients,
    run,
    split,
)


def choco_run(**options: Any) -> list[State]:
    topology = make_topology("ring", 4)
    given = {"compressor": make_compressor("sign"), "consensus_stepsize": GAMMA, **options}
    epoch = given.pop("epoch", lambda step: 0.0)
    return run(
        lambda model, node: ParallelChoco(model.parameters(), node, topology, lr=LR, **given),
        4,
        epoch=epoch,
    )


def test_local_steps_exchange_every_third_time_from_the_epoch_on() -> None:
    states = choco_run(
        local_step=3, turn_on_local_step_from=2, epoch=lambda step: step / 10, momentum=0.9
    )
    exchanged = [
        number
        for number in range(NUM_STEPS)
        if not np.array_equal(states[number]["hat"], states[number + 1]["hat"])
    ]
    assert exchanged == [*range(20), *range(22, NUM_STEPS, 3)]
    for number in set(range(NUM_STEPS)) - set(exchanged):
        before, after = states[number], states[number + 1]
        buf = 0.9 * before["buf"] + gradients(number, 4)
        assert far(after["x"], before["x"] - LR * buf) < 1e-6


def test_local_sgd_on_the_complete_graph_averages_models() -> None:
    topology = make_topology("complete", 4)
    states = run(
        lambda model, node: AllReduceSGD(model.parameters(), node, topology, lr=LR, local_step=5),
        4,
        start=same_start,
    )
    for number in range(NUM_STEPS):
        want = states[number]["x"] - LR * gradients(number, 4)
        if number % 5 == 4:
            want = np.broadcast_to(want.mean(axis=0), want.shape)
        assert far(states[number + 1]["x"], want) < 1e-6


@pytest.mark.parametrize("optimizer", [DCDPSGD, ECDPSGD])
def test_local_steps_of_optimizers_with_copies(optimizer: type[DecentralizedOptimizer]) -> None:
    """Without compression, three local steps and an exchange are one step of three gradients."""
    topology = make_topology("ring", 4)
    states = run(
        lambda model, node: optimizer(
            model.parameters(),
            node,
            topology,
            lr=LR,
            local_step=3,
            compressor=make_compressor("none"),
        ),
        4,
        start=same_start,
    )
    x = states[0]["x"]
    for number in range(NUM_STEPS // 3):
        moved = sum(gradients(3 * number + index, 4) for index in range(3))
        x = topology.matrix @ x - LR * moved
        assert far(states[3 * number + 3]["x"], x) < 1e-5


ADAM = AdamOptions(beta_1=0.8, beta_2=0.95, eps=1e-4)


def test_an_adam_local_step_is_torch_adam() -> None:
    """D-PSGD with Adam: W times what torch.optim.Adam makes of each node's x."""
    topology = make_topology("ring", 4)
    assert isinstance(topology, Topology)
    states = run(
        lambda model, node: DPSGD(
            model.parameters(), node, topology, lr=LR, weight_decay=WEIGHT_DECAY, adam=ADAM
        ),
        4,
    )
    models = [Tensors(draw(rank)) for rank in range(4)]
    optimizers = [
        torch.optim.Adam(
            model.parameters(), lr=LR, betas=(0.8, 0.95), eps=1e-4, weight_decay=WEIGHT_DECAY
        )
        for model in models
    ]
    for number in range(NUM_STEPS):
        for model, optimizer, values in zip(models, optimizers, gradients(number, 4), strict=True):
            optimizer.zero_grad()
            model.give_gradient(values)
            optimizer.step()
        mixed = topology.matrix @ np.stack([model.flat() for model in models])
        assert far(states[number + 1]["x"], mixed) < 1e-5
        with torch.no_grad():
            for model, row in zip(models, mixed, strict=True):
                for parameter, piece in zip(model.tensors, split(row), strict=True):
                    parameter.copy_(torch.tensor(piece).view_as(parameter))


def test_the_moments_of_adam_start_again_at_an_exchange_where_asked() -> None:
    kept, reset = (
        choco_run(adam=AdamOptions(memory_treatment=treatment), local_step=2)
        for treatment in (None, "reset")
    )
    assert [int(state["adam_steps"][0, 0]) for state in reset[:5]] == [0, 1, 0, 1, 0]
    assert [int(state["adam_steps"][0, 0]) for state in kept[:5]] == [0, 1, 2, 3, 4]
    assert not reset[2]["exp_avg"].any()
    assert kept[2]["exp_avg"].any()


def test_the_warm_up_of_dgc_drops_more_from_epoch_to_epoch() -> None:
    topology = make_topology("complete", 2)
    shares = []

    class Counting(DGC):
        def _recursion(self) -> None:
            before = self.communicator.bytes_sent
            super()._recursion()
            shares.append((self.communicator.bytes_sent - before) / 4)

    run(
        lambda model, node: Counting(
            model.parameters(),
            node,
            topology,
            lr=LR,
            compressor=make_compressor("compress_random_k", compress_ratio=0.9),
            compress_warmup_values=(0.0, 0.5),
            compress_warmup_epochs=3,
        ),
        2,
        start=same_start,
        epoch=lambda step: step / 2,
        num_steps=10,
    )
    half, tenth = 7 + 3 + 1 + 12, 1 + 1 + 1 + 2
    assert shares[::2] == [NUM_ENTRIES] * 2 + [half] * 4 + [tenth] * 4
