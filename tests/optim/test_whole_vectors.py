"""Optimizers for unequal data that send whole vectors, against NumPy steps of their papers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pcode.communication import Communicator, Simulation
from pcode.optim import (
    D2,
    DPSGD,
    SGP,
    AdamOptions,
    AllReduceSGD,
    DecentLaM,
    DecentralizedOptimizer,
    GradientTracking,
    QuasiGlobalSGD,
    RelaySGD,
)
from pcode.topology import Directed, Graph, make_graph, make_topology
from pcode.utils.errors import UserError
from tests.optim.optimizer_contract import check_goes_on
from tests.optim.optimizers_by_hand import same_start
from tests.optim.recursions import (
    LR,
    MOMENTUM,
    NUM_ENTRIES,
    NUM_STEPS,
    WEIGHT_DECAY,
    Array,
    State,
    Tensors,
    check,
    direction,
    draw,
    far,
    gradient,
    gradients,
    local_options,
    local_step,
    plain,
    run,
    warm_up,
)

GRAPHS = [("ring", 4), ("ring", 8), ("star", 5)]
MU = 0.9
Step = Callable[[State, Array], State]


def quasi_global(W: Array, nesterov: bool, lr: float = LR) -> Step:
    def step(state: State, g: Array) -> State:
        x, m = state["x"], state["common_buf"]
        g = g + WEIGHT_DECAY * x
        d = g + MOMENTUM * m
        mixed = W @ (x - lr * (g + MOMENTUM * d if nesterov else d))
        m = MU * m + ((1 - MU) * (x - mixed) / lr if lr > 0 else 0)
        return {"x": mixed, "buf": m, "common_buf": m, "before": mixed}

    return step


def d2(W: Array, nesterov: bool, lr: float = LR) -> Step:
    def step(state: State, g: Array) -> State:
        stepped = local_step(state, g, nesterov, lr)
        mixed = W @ (stepped["x"] + state["c"])
        return {**stepped, "x": mixed, "c": mixed - stepped["x"]}

    return step


def gradient_tracking(W: Array, nesterov: bool, lr: float = LR) -> Step:
    def step(state: State, g: Array) -> State:
        x, is_first = state["x"], not state["before"].any()
        mixed_x, mixed_y = np.split(state["sent"], 2, axis=1)
        stepped = local_step(state, g, nesterov, lr)
        u = stepped["x"] - x
        y = mixed_y + u - state["u"]
        x = (x if is_first else mixed_x) + y
        sent = np.concatenate([W @ x, W @ y], axis=1)
        return {**stepped, "x": x, "before": x, "u": u, "sent": sent}

    return step


def decentlam(W: Array, nesterov: bool, lr: float = LR) -> Step:
    def step(state: State, g: Array) -> State:
        x = state["x"]
        moved = g + WEIGHT_DECAY * x
        y = x - lr * moved
        moved = (x - W @ y) / lr if lr > 0 else moved
        d, buf = direction(state, moved, nesterov)
        return {"x": x - lr * d, "buf": buf}

    return step


def sgp(W: Array, nesterov: bool, lr: float = LR) -> Step:
    """With links both ways, whose w stays 1: D-PSGD."""

    def step(state: State, g: Array) -> State:
        stepped = local_step(state, g, nesterov, lr)
        return {**stepped, "x": W @ stepped["x"]}

    return step


STEPS: dict[type[DecentralizedOptimizer], Callable[..., Step]] = {
    QuasiGlobalSGD: quasi_global,
    D2: d2,
    GradientTracking: gradient_tracking,
    DecentLaM: decentlam,
}


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("graph", "num_nodes"), GRAPHS)
@pytest.mark.parametrize("kind", STEPS)
def test_it_is_its_recursion(
    kind: type[DecentralizedOptimizer], graph: str, num_nodes: int, nesterov: bool
) -> None:
    topology = make_topology(graph, num_nodes)
    # What DecentLaM divides by the rate is a difference of models.
    rounded = {"buf": 1 / LR} if kind is DecentLaM else {}
    check(plain(kind, topology, nesterov), STEPS[kind](topology.matrix, nesterov), rounded)


def one_way(num_nodes: int) -> Directed:
    """Nodes that send around a circle, and one of them to another one besides."""
    P = (np.eye(num_nodes) + np.roll(np.eye(num_nodes), 1, axis=0)) / 2
    P[[0, 1, 2], 0] = 0.5, 0.25, 0.25
    return Directed("one way", P)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("num_nodes", [4, 8])
def test_sgp_is_its_recursion(num_nodes: int, nesterov: bool) -> None:
    graph = one_way(num_nodes)

    def step(state: State, g: Array) -> State:
        x, s, w = state["x"], state["sent"][:, :-1], state["sent"][:, -1:]
        if not w.any():
            s, w = x, np.ones((num_nodes, 1))
        stepped = local_step({"x": x, "buf": state["buf"]}, g, nesterov)
        s, w = graph.matrix @ (s + stepped["x"] - x), graph.matrix @ w
        assert w.sum() == pytest.approx(num_nodes)
        return {**stepped, "x": s / w, "sent": np.column_stack([s, w])}

    states = plain(SGP, graph, nesterov)
    check(states, step)
    assert states[-1]["sent"][:, -1].min() < 0.6


def test_sgp_without_gradients_averages() -> None:
    """The mean of where the nodes began, although no row of P says so."""
    states = plain(SGP, one_way(4), False, lr=0.0)
    want = states[0]["x"].mean(axis=0)
    assert far(states[-1]["x"], np.stack([want] * 4)) < 1e-5


@pytest.mark.parametrize("kind", [DPSGD, D2, RelaySGD])
def test_others_refuse_links_that_lead_one_way(kind: type[DecentralizedOptimizer]) -> None:
    with pytest.raises(UserError, match=r"lead one way.*--optimizer sgp"):
        kind.validate(one_way(4))


@pytest.mark.parametrize("kind", [QuasiGlobalSGD, D2, DecentLaM, SGP])
def test_what_is_lost_weighs_for_the_receiver(kind: type[DecentralizedOptimizer]) -> None:
    """On nodes whose gradients and models differ, with W of each round."""
    lossy = make_graph("ring", 4, 6, {"drop_messages": 0.3})
    states = plain(kind, lossy, True)
    alone = states[0]
    for number in range(NUM_STEPS):
        W = lossy.at(number).mix(np.eye(4))
        alone = (STEPS | {SGP: sgp})[kind](W, True)(alone, gradients(number, 4))
        assert far(states[number + 1]["x"], alone["x"]) < 1e-5
    if kind is SGP:
        assert (states[-1]["sent"][:, -1] == 1).all()


@pytest.mark.parametrize("kind", [*STEPS, SGP])
def test_a_rate_may_rise_from_0(kind: type[DecentralizedOptimizer]) -> None:
    """Also where movements are divided by it: of equal models, as in the beginning, and others."""
    topology = make_topology("ring", 4)
    states = run(
        lambda model, node: kind(model.parameters(), node, topology, **local_options(True)),
        4,
        start=same_start,
        rate=warm_up,
    )
    alone = states[0]
    for number in range(NUM_STEPS):
        step = (STEPS | {SGP: sgp})[kind](topology.matrix, True, warm_up(number))
        alone = step(alone, gradients(number, 4))
        assert far(states[number + 1]["x"], alone["x"]) < 1e-5


@pytest.mark.parametrize(
    ("kind", "graph", "options"),
    [
        (QuasiGlobalSGD, "ring", {"local_step": 3}),
        (QuasiGlobalSGD, "random_matching", {"local_step": 2, "adam": AdamOptions()}),
        (D2, "ring", {"local_step": 3}),
        (GradientTracking, "random_matching", {"local_step": 3}),
        (DecentLaM, "ring", {}),
        (SGP, "directed_exponential", {"local_step": 3}),
        (RelaySGD, "double_binary_trees", {"local_step": 3}),
    ],
)
def test_it_goes_on_as_if_never_stopped(
    kind: type[DecentralizedOptimizer], graph: str, options: dict[str, Any]
) -> None:
    def start(communicator: Communicator) -> tuple[Tensors, DecentralizedOptimizer]:
        model, topology = Tensors(draw(communicator.rank)), make_graph(graph, 4)
        given = local_options(nesterov=True) | options
        return model, kind(model.named_parameters(), communicator, topology, **given)

    check_goes_on(start)


@pytest.mark.parametrize("kind", [DPSGD, QuasiGlobalSGD, D2, DecentLaM, SGP])
def test_equal_nodes_do_not_notice_lost_messages(kind: type[DecentralizedOptimizer]) -> None:
    """With equal gradients and models: what is lost is replaced by as good a model."""
    found = []
    for probability in (0.0, 0.4):
        lossy = make_graph("ring", 4, 6, {"drop_messages": probability})

        def node(communicator: Communicator, lossy: Graph = lossy) -> Array:
            model = Tensors(draw(0))
            optimizer = kind(model.parameters(), communicator, lossy, **local_options(True))
            for step in range(20):
                optimizer.zero_grad()
                model.give_gradient(gradient(step, 0))
                optimizer.step()
            return model.flat()

        found.append(np.stack(Simulation(4).run(node)))
    assert far(found[1], found[0]) < 1e-5


def test_all_reduce_becomes_d_psgd_where_messages_are_lost() -> None:
    lossy = make_graph("complete", 4, 6, {"drop_messages": 0.1})
    assert DPSGD.on_graph(lossy) is DPSGD
    assert DPSGD.on_graph(make_topology("complete", 4)) is AllReduceSGD


@pytest.mark.parametrize("kind", [GradientTracking, AllReduceSGD])
def test_others_refuse_to_lose_messages(kind: type[DecentralizedOptimizer]) -> None:
    graph = make_graph("complete", 4, 6, {"drop_messages": 0.1})
    with pytest.raises(UserError, match=r"every message arrives; --drop_messages is for .*relay"):
        kind.validate(graph)


def test_d2_without_momentum_is_the_form_of_its_paper() -> None:
    """x_{t+1} = W (2 x_t - x_{t-1} - lr g_t + lr g_{t-1})."""
    topology = make_topology("ring", 4)
    states = plain(D2, topology, False, momentum=0.0, weight_decay=0.0)
    for number in range(1, NUM_STEPS):
        before, x = states[number - 1]["x"], states[number]["x"]
        change = gradients(number, 4) - gradients(number - 1, 4)
        want = topology.matrix @ (2 * x - before - LR * change)
        assert far(states[number + 1]["x"], want) < 1e-5


def test_exact_diffusion_is_d2_with_half_of_the_graph() -> None:
    topology = make_topology("ring", 4)
    half = (np.eye(4) + topology.matrix) / 2
    check(plain(D2, topology, True, exact_diffusion=True), d2(half, True))


def test_gradient_tracking_of_momentum_is_momentum_tracking() -> None:
    """x = W x - lr (m - c) ; c = W (c - m) + m, with m the momentum of the gradients."""
    topology = make_topology("ring", 8)
    states = plain(GradientTracking, topology, False, weight_decay=0.0)
    x, m, c = states[0]["x"], np.zeros((8, NUM_ENTRIES)), np.zeros((8, NUM_ENTRIES))
    for number in range(NUM_STEPS):
        m = MOMENTUM * m + gradients(number, 8)
        W = topology.matrix if number > 0 else np.eye(8)  # what they begin with is not mixed
        x, c = W @ x - LR * (m - c), topology.matrix @ (c - m) + m
        assert far(states[number + 1]["x"], x) < 1e-5


@pytest.mark.parametrize("kind", [D2, GradientTracking])
def test_the_mean_model_takes_the_mean_step(kind: type[DecentralizedOptimizer]) -> None:
    states = plain(kind, make_topology("ring", 4), False, weight_decay=0.0, momentum=0.0)
    for number in range(1, NUM_STEPS):
        moved = states[number + 1]["x"].mean(axis=0) - states[number]["x"].mean(axis=0)
        assert far(moved, -LR * gradients(number, 4).mean(axis=0)) < 1e-4


def test_quasi_global_adam_is_its_recursion() -> None:
    """Both moments are fed with the movement over its norm; the local step is Adam's."""
    topology, options = make_topology("ring", 4), AdamOptions(0.8, 0.95, 1e-6)
    states = run(
        lambda model, node: QuasiGlobalSGD(model.parameters(), node, topology, lr=LR, adam=options),
        4,
    )
    first = second = np.zeros((4, NUM_ENTRIES))
    for number in range(NUM_STEPS):
        x, g, t = states[number]["x"], gradients(number, 4), number + 1
        m, v = 0.8 * first + 0.2 * g, 0.95 * second + 0.05 * g**2
        mixed = topology.matrix @ (
            x - LR * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-6)
        )
        assert far(states[number + 1]["x"], mixed) < 1e-5
        moved = x - mixed
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        first, second = 0.8 * first + 0.2 * moved, 0.95 * second + 0.05 * moved**2
        for want, name in ((first, "exp_avg"), (second, "exp_avg_sq")):
            assert far(states[number + 1][f"common_{name}"], want) < 1e-4
            assert np.array_equal(states[number + 1][name], states[number + 1][f"common_{name}"])
        first, second = (states[number + 1][name] for name in ("exp_avg", "exp_avg_sq"))


def test_d2_refuses_a_graph_on_which_it_diverges() -> None:
    ring = make_topology("ring", 4)
    weights = np.where(ring.matrix > 0, 0.45, 0.0)
    np.fill_diagonal(weights, 0.1)
    wild = type(ring)("wild", weights)
    with pytest.raises(UserError, match=r"-1/3.*--exact_diffusion True"):
        D2.validate(wild, exact_diffusion=False)
    D2.validate(wild, exact_diffusion=True)
    with pytest.raises(UserError, match="--exact_diffusion True"):
        Simulation(4).run(lambda node: D2([torch.nn.Parameter(torch.zeros(2))], node, wild, lr=LR))
