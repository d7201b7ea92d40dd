"""The optimizers against NumPy steps written from the recursions, in float64.

Two checks of 50 steps with given gradients. Step by step: NumPy takes each step from the
optimizer's own state, and every vector agrees to 1e-6. As a whole: NumPy takes all steps by itself;
the optimizer's float32 rounding alone adds up to some 1e-6 of the values there, so they agree to
1e-5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from pcode.communication import Communicator, Simulation
from pcode.compression import make_compressor
from pcode.optim import (
    BEER,
    DCDPSGD,
    DPSGD,
    ECDPSGD,
    LEAD,
    AllReduceSGD,
    DecentralizedOptimizer,
    MoTEF,
    ParallelChoco,
)
from pcode.topology import Topology, make_topology
from tests.optim.recursions import (
    GAMMA,
    LR,
    NUM_ENTRIES,
    NUM_STEPS,
    Array,
    State,
    Tensors,
    check,
    draw,
    far,
    gradient,
    gradients,
    local_options,
    local_step,
    plain,
    run,
    split,
)
from tests.support.pairwise import pairwise

GRAPHS = [("ring", 4), ("ring", 8), ("ring", 2), ("torus", 9), ("expander", 7), ("complete", 3)]


def sign(v: Array) -> Array:
    """(||v||_1 / d) * s for every tensor of a node."""
    return np.concatenate([np.abs(p).mean() * np.where(p < 0, -1.0, 1.0) for p in split(v)])


OPERATORS: dict[str, Callable[[Array], Array]] = {"none": lambda v: v, "sign": sign}


def choco_step(W: Array, Q: Callable[[Array], Array], nesterov: bool) -> Callable[..., State]:
    def step(state: State, g: Array) -> State:
        hat, s = state["hat"], state["z"] + state["hat"]
        state = local_step(state, g, nesterov)
        x = state["x"] + GAMMA * (s - hat)
        q = np.stack([Q(row) for row in x - hat])
        hat, s = hat + q, s + W @ q
        return {**state, "x": x, "hat": hat, "z": s - hat}

    return step


def d_psgd_step(W: Array, nesterov: bool) -> Callable[..., State]:
    def step(state: State, g: Array) -> State:
        state = local_step(state, g, nesterov)
        return {**state, "x": W @ state["x"]}

    return step


def all_reduce_step(nesterov: bool) -> Callable[..., State]:
    def step(state: State, g: Array) -> State:
        return local_step(state, np.broadcast_to(g.mean(axis=0), g.shape), nesterov)

    return step


def choco(topology: Topology, name: str, nesterov: bool = False, **options: Any) -> list[State]:
    given = {
        **local_options(nesterov),
        "compressor": make_compressor(name),
        "consensus_stepsize": GAMMA,
        **options,
    }
    return run(
        lambda model, node: ParallelChoco(model.parameters(), node, topology, **given),
        topology.num_nodes,
    )


@pytest.mark.parametrize(
    ("name", "graph", "nesterov"), pairwise(["none", "sign"], GRAPHS, [False, True])
)
def test_choco_is_its_recursion(name: str, graph: tuple[str, int], nesterov: bool) -> None:
    topology = make_topology(*graph)
    check(choco(topology, name, nesterov), choco_step(topology.matrix, OPERATORS[name], nesterov))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("graph", "num_nodes"), GRAPHS)
def test_d_psgd_is_its_recursion(graph: str, num_nodes: int, nesterov: bool) -> None:
    topology = make_topology(graph, num_nodes)
    check(plain(DPSGD, topology, nesterov), d_psgd_step(topology.matrix, nesterov))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("num_nodes", [4, 8])
def test_all_reduce_sgd_is_its_recursion(num_nodes: int, nesterov: bool) -> None:
    topology = make_topology("complete", num_nodes)
    check(plain(AllReduceSGD, topology, nesterov), all_reduce_step(nesterov))


def torch_sgd(start: Array, steps: Iterator[Array], nesterov: bool) -> Array:
    model = Tensors(start)
    optimizer = torch.optim.SGD(model.parameters(), **local_options(nesterov))
    for g in steps:
        optimizer.zero_grad()
        model.give_gradient(g)
        optimizer.step()
    return model.flat()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("optimizer", [AllReduceSGD, DPSGD, ParallelChoco])
def test_one_node_is_torch_sgd(optimizer: type[DecentralizedOptimizer], nesterov: bool) -> None:
    topology = make_topology("ring", 1)
    if optimizer is ParallelChoco:
        states = choco(topology, "sign", nesterov)
    else:
        states = plain(optimizer, topology, nesterov)
    want = torch_sgd(draw(0), (gradient(step, 0) for step in range(NUM_STEPS)), nesterov)
    assert far(states[-1]["x"][0], want) < 1e-6


def test_all_reduce_sgd_is_torch_sgd_on_the_mean_gradient() -> None:
    states = plain(AllReduceSGD, make_topology("complete", 4), nesterov=True)
    for rank in range(4):
        means = (gradients(step, 4).mean(axis=0) for step in range(NUM_STEPS))
        want = torch_sgd(draw(rank), means, nesterov=True)
        assert far(states[-1]["x"][rank], want) < 1e-5


def test_d_psgd_on_the_complete_graph_is_all_reduce_sgd() -> None:
    """The mean model moves by the mean step, and every node holds the mean after a step."""
    states = plain(DPSGD, make_topology("complete", 4), nesterov=True)
    start = np.mean([draw(rank) for rank in range(4)], axis=0)
    means = (gradients(step, 4).mean(axis=0) for step in range(NUM_STEPS))
    want = torch_sgd(start, means, nesterov=True)
    for rank in range(4):
        assert far(states[-1]["x"][rank], want) < 1e-5


def test_uncompressed_choco_with_gamma_1_is_d_psgd_one_round_late() -> None:
    """x_{t+1} = x_t - lr d_t + (W - I) x_t: mixing meets the models before the local step.

    hat equals x once it has been sent, so the neighbours' previous models are mixed in.
    """
    topology = make_topology("ring", 4)
    states = choco(topology, "none", consensus_stepsize=1.0)
    for number in range(1, NUM_STEPS):
        before = states[number]
        stepped = local_step(before, gradients(number, 4), nesterov=False)["x"]
        want = stepped + (topology.matrix - np.eye(4)) @ before["x"]
        assert far(states[number + 1]["x"], want) < 1e-6


@pytest.mark.parametrize("graph", ["ring", "complete"])
@pytest.mark.parametrize("name", ["none", "sign"])
def test_mixing_leaves_the_mean_alone(name: str, graph: str) -> None:
    """Whatever Q does, the mean over nodes moves by the mean local step only."""
    states = choco(make_topology(graph, 8), name, weight_decay=0.0, momentum=0.0)
    for number in range(NUM_STEPS):
        want = states[number]["x"].mean(axis=0) - LR * gradients(number, 8).mean(axis=0)
        assert far(states[number + 1]["x"].mean(axis=0), want) < 1e-6
    final = states[-1]["x"]
    assert np.abs(final - final.mean(axis=0)).max() > 1e-2


def tensors(owner: object) -> list[torch.Tensor]:
    """Every tensor that an object of ours holds, each memory once, however deep."""
    found: dict[int, torch.Tensor] = {}
    seen: set[int] = set()
    open_ends: list[object] = [owner]
    while open_ends:
        value = open_ends.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            base = value if value._base is None else value._base
            found[base.data_ptr()] = base
        elif isinstance(value, dict):
            open_ends += value.values()
        elif isinstance(value, list | tuple | set):
            open_ends += value
        elif type(value).__module__.startswith("pcode"):
            open_ends += vars(value).values()
    return list(found.values())


@pytest.mark.parametrize(
    ("optimizer_class", "more"),
    [(ParallelChoco, 2), (DCDPSGD, 2), (ECDPSGD, 2), (BEER, 7), (MoTEF, 7), (LEAD, 3)],
)
def test_memory_does_not_grow_with_the_degree(
    optimizer_class: type[DecentralizedOptimizer], more: int
) -> None:
    """The vectors that nodes of 2 and of 14 neighbours hold after two steps, messages aside.

    x, g, buf and so many more of float32; LEAD has two of float64 besides.
    """

    takes_gamma = optimizer_class in (ParallelChoco, BEER, MoTEF, LEAD)
    options: dict[str, Any] = {"consensus_stepsize": GAMMA} if takes_gamma else {}

    def count(num_nodes: int) -> int:
        topology = make_topology("complete", num_nodes)

        def node(communicator: Communicator) -> int:
            model = Tensors(draw(0))
            optimizer = optimizer_class(
                model.parameters(),
                communicator,
                topology,
                compressor=make_compressor("sign"),
                lr=LR,
                **options,
            )
            for _ in range(2):
                optimizer.step()
            optimizer.finish()
            communicator.barrier()
            held = [v for v in tensors(optimizer) if v.dtype == torch.float32]
            return sum(v.nbytes for v in held if v.numel() >= NUM_ENTRIES)

        return Simulation(num_nodes).run(node)[0]

    assert count(3) == count(15) == (3 + more) * 4 * NUM_ENTRIES
