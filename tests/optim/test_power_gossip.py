"""PowerGossip: against NumPy steps by hand, both ends' bits, consensus, states and its limits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pcode.communication import Communicator, Simulation
from pcode.communication.base import NoCommunicator
from pcode.optim import DPSGD, PowerGossip
from pcode.optim.low_rank import LEFT, LowRank
from pcode.optim.low_rank.batched import BatchedPasses
from pcode.optim.low_rank.cpu import CPUPasses
from pcode.topology import Topology, make_topology
from pcode.utils.errors import DivergenceError
from pcode.utils.layout import Layout
from tests.optim.optimizer_contract import check_goes_on
from tests.optim.recursions import (
    NUM_STEPS,
    SHAPES,
    Array,
    State,
    Tensors,
    draw,
    far,
    gradients,
    local_options,
    local_step,
    run,
    split,
)
from tests.run.runs import finished
from tests.support.pairwise import pairwise

SEED = 5
MATRICES = [(shape[0], int(np.prod(shape[1:], dtype=int))) for shape in SHAPES]
MODEL = Layout.of((str(i), torch.empty(shape)) for i, shape in enumerate(SHAPES))


def orthonormal(factor: Array) -> Array:
    """Gram and Schmidt's: the columns of Q whose triangle has a positive diagonal."""
    Q, R = np.linalg.qr(factor)
    return Q * np.sign(np.diag(R))


class ByHand:
    """The recursion in float64, for all nodes at once, of matrices as they are written."""

    def __init__(self, topology: Topology, rank: int, *, iterations: int, promptly: bool) -> None:
        self.W, self.edges = topology.matrix, topology.edges
        self.rank, self.iterations, self.promptly = rank, iterations, promptly
        low_rank = LowRank(MODEL, rank)
        even = low_rank.sides(0)
        self.is_whole = [rank * (rows + cols) >= rows * cols for rows, cols in MATRICES]
        start = low_rank.start(SEED).double().numpy()
        self.from_left = [kind == LEFT for kind in even.kinds]
        self.factors: dict[tuple[int, int, int], Array] = {}
        for tensor, (rows, cols) in enumerate(MATRICES):
            if self.is_whole[tensor]:
                continue
            size = rows if self.from_left[tensor] else cols
            place = even.others[tensor]
            drawn = start[1, place : place + rank * size].reshape(rank, size).T
            for i, j in self.edges:
                self.factors[i, j, tensor] = drawn
        self.pending: list[tuple[int, int, int, Array]] = []

    def _exchange(self, x: Array) -> None:
        """Work out what every edge subtracts of every matrix."""
        self.pending = []
        for i, j in self.edges:
            for tensor, (rows, cols) in enumerate(MATRICES):
                a, b = (split(x[node])[tensor].reshape(rows, cols) for node in (i, j))
                if self.is_whole[tensor]:
                    self.pending.append((i, j, tensor, a - b))
                    continue
                basis = orthonormal(self.factors[i, j, tensor])
                if self.from_left[tensor]:
                    new = (a - b).T @ basis
                    low = basis @ new.T
                else:
                    new = (a - b) @ basis
                    low = new @ basis.T
                self.factors[i, j, tensor] = new
                self.pending.append((i, j, tensor, low))
        self.from_left = [not left for left in self.from_left]

    def _mixed(self, x: Array) -> Array:
        x = x.copy()
        for i, j, tensor, low in self.pending:
            split(x[i])[tensor][:] -= self.W[i, j] * low.ravel()
            split(x[j])[tensor][:] += self.W[i, j] * low.ravel()
        self.pending = []
        return x

    def step(self, state: State, g: Array, nesterov: bool) -> State:
        """Take a step of x and buf."""
        change = self._mixed(state["x"]) - state["x"]
        state = local_step(state, g, nesterov)
        x = state["x"] + change
        self._exchange(x)
        for _ in range(self.iterations - 1):
            x = self._mixed(x)
            self._exchange(x)
        return {**state, "x": self._mixed(x) if self.promptly else x}

    def take_over(self, vectors: list[dict[str, Array]], num_steps: int) -> None:
        """Go on from the optimizers' own factors, of one end of each edge, after their steps."""
        sides = LowRank(MODEL, self.rank).sides(num_steps * self.iterations - 1)
        self.pending = []
        for i, j in self.edges:
            for tensor, (rows, cols) in enumerate(MATRICES):
                is_left, is_whole = sides.kinds[tensor] == LEFT, self.is_whole[tensor]
                sent, kept = (cols, rows) if is_left else (rows, cols)
                begin, other = sides.places[tensor], sides.others[tensor]
                size = rows * cols if is_whole else self.rank * sent
                new = vectors[i][f"difference_{j}"][begin : begin + size]
                low = (
                    new.reshape(rows, cols)
                    if is_whole
                    else low_rank_of(
                        vectors[i][f"basis_{j}"][other : other + self.rank * kept].reshape(
                            self.rank, -1
                        ),
                        new.reshape(self.rank, -1),
                        is_left,
                    )
                )
                if not is_whole:
                    self.factors[i, j, tensor] = new.reshape(self.rank, sent).T
                if not self.promptly:
                    self.pending.append((i, j, tensor, low))


def low_rank_of(basis: Array, new: Array, is_left: bool) -> Array:
    product: Array = basis.T @ new if is_left else new.T @ basis
    return product


def states_of(topology: Topology, nesterov: bool = False, **options: Any) -> list[Any]:
    """x, buf and factors of every node, after each step: nodes x steps."""

    def use(model: Tensors, optimizer: PowerGossip) -> dict[str, Array]:
        vectors = optimizer.state_dict()["vectors"]
        return {"x": model.flat(), **{name: v.double().numpy() for name, v in vectors.items()}}

    given = local_options(nesterov) | {"manual_seed": SEED} | options
    return Simulation(topology.num_nodes).run(
        lambda node: trained(node, topology, NUM_STEPS, use, **given)
    )


@pytest.mark.parametrize(
    ("graph", "rank_and_iterations", "promptly"),
    pairwise([("ring", 4), ("torus", 8), ("ring", 2)], [(1, 1), (2, 1), (1, 2)], [False, True]),
)
def test_it_is_its_recursion(
    graph: tuple[str, int], rank_and_iterations: tuple[int, int], promptly: bool
) -> None:
    """Each step from the optimizer's own state; from the start on the first ones by NumPy alone.

    Float32's rounding of directions doubles from step to step there.
    """
    topology, nesterov = make_topology(*graph), graph[1] == 8
    rank, iterations = rank_and_iterations
    nodes = states_of(
        topology, nesterov, gossip_rank=rank, power_iterations=iterations, mix_promptly=promptly
    )
    by_hand, forced = (
        ByHand(topology, rank, iterations=iterations, promptly=promptly) for _ in range(2)
    )
    start = np.stack([draw(node) for node in range(graph[1])])
    alone = before = {"x": start, "buf": np.zeros_like(start)}
    for number in range(NUM_STEPS):
        g = gradients(number, graph[1])
        found = [states[number] for states in nodes]
        got = {name: np.stack([state[name] for state in found]) for name in before}
        want = forced.step(before, g, nesterov)
        assert far(got["x"], want["x"]) < 1e-6, number
        if number < 10:
            alone = by_hand.step(alone, g, nesterov)
            assert far(got["x"], alone["x"]) < 1e-5, number
        forced.take_over(found, number + 1)
        before = got
    assert far(before["x"], start) > 0.1


def test_with_all_ranks_it_is_d_psgd() -> None:
    """Nothing is smaller by its factors then: everything goes whole."""
    topology = make_topology("torus", 8)
    nodes = states_of(topology, gossip_rank=6, mix_promptly=True)
    want = run(
        lambda model, node: DPSGD(model.parameters(), node, topology, **local_options(False)), 8
    )
    assert far(np.stack([states[-1]["x"] for states in nodes]), want[-1]["x"]) < 1e-5


def trained(
    communicator: Communicator,
    topology: Topology,
    num_steps: int,
    use: Callable[[Tensors, PowerGossip], Any],
    **options: Any,
) -> list[Any]:
    """What `use` finds after each step."""
    model = Tensors(draw(communicator.rank))
    optimizer = PowerGossip(model.parameters(), communicator, topology, **options)
    found = []
    for step in range(num_steps):
        optimizer.zero_grad()
        model.give_gradient(gradients(step, topology.num_nodes)[communicator.rank])
        optimizer.step()
        found.append(use(model, optimizer))
    optimizer.finish()
    return found


@pytest.mark.parametrize("rank", [1, 2])
def test_both_ends_of_an_edge_have_the_same_bits(rank: int) -> None:
    topology = make_topology("torus", 8)

    def factors(model: Tensors, optimizer: PowerGossip) -> dict[str, torch.Tensor]:
        vectors = optimizer.state_dict()["vectors"]
        return {name: v.clone() for name, v in vectors.items() if name != "buf"}

    found = Simulation(8).run(
        lambda node: trained(node, topology, 20, factors, lr=0.05, gossip_rank=rank)
    )
    for i, j in topology.edges:
        for own, others in zip(found[i], found[j], strict=True):
            for name in ("basis", "difference"):
                assert torch.equal(own[f"{name}_{j}"], others[f"{name}_{i}"])
                assert own[f"{name}_{j}"].abs().max() > 0


@pytest.mark.parametrize(
    ("graph", "rounds", "bound"),
    [(("ring", 8), 150, 1e-2), pytest.param(("social", 32), 150, 1e-2, marks=pytest.mark.slow)],
)
def test_nodes_without_gradients_come_to_agree(
    graph: tuple[str, int], rounds: int, bound: float
) -> None:
    """With the published rank 1: the mean stays, and the distance from it never grows."""
    topology = make_topology(*graph)
    found = Simulation(graph[1]).run(
        lambda node: trained(node, topology, rounds, lambda model, _: model.flat(), lr=0.0)
    )
    courses = np.array(found)  # nodes x rounds x d
    mean = np.mean([draw(rank) for rank in range(graph[1])], axis=0)
    assert far(courses.mean(axis=0), np.broadcast_to(mean, courses.shape[1:])) < 1e-5
    distances = np.sqrt(np.square(courses - mean).sum(axis=(0, 2)))
    assert (np.diff(distances) <= 1e-6 * distances[0]).all()
    assert distances[-1] < bound * distances[0]


@pytest.mark.parametrize(
    "form", [{"local_step": 3}, {"power_iterations": 3}, {"mix_promptly": True}], ids=str
)
def test_restored_it_goes_on_with_the_same_bits(form: dict[str, Any]) -> None:
    topology = make_topology("ring", 4)

    def start(communicator: Communicator) -> tuple[Tensors, PowerGossip]:
        model = Tensors(draw(communicator.rank))
        options = {**local_options(True), **form, "gossip_rank": 2}
        return model, PowerGossip(model.parameters(), communicator, topology, **options)

    check_goes_on(start)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"mix_promptly": True}, {}),
        ({}, {"mix_promptly": True}),
        ({}, {"power_iterations": 2}),
        ({"power_iterations": 3}, {"gossip_rank": 2}),
    ],
    ids=str,
)
def test_with_other_options_it_goes_on_without_harm(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    """Nodes without gradients never come to be further apart."""
    topology = make_topology("ring", 4)

    def node(communicator: Communicator) -> list[Array]:
        model = Tensors(draw(communicator.rank))
        first = PowerGossip(model.parameters(), communicator, topology, lr=0.0, **before)
        for _ in range(3):
            first.step()
        state = copy.deepcopy(first.state_dict())
        then = PowerGossip(model.parameters(), communicator, topology, lr=0.0, **after)
        then.warm_start(state)
        found = [model.flat()]
        for _ in range(4):
            then.step()
            found.append(model.flat())
        then.finish()
        return found

    courses = np.array(Simulation(4).run(node))
    distances = np.sqrt(np.square(courses - courses.mean(axis=0)).sum(axis=(0, 2)))
    assert (np.diff(distances) <= 1e-6 * distances[0]).all()
    assert distances[-1] < distances[0]


@pytest.mark.parametrize("passes", [CPUPasses, BatchedPasses])
def test_a_node_alone_takes_its_local_step(passes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcode.optim.power_gossip.CPUPasses", passes)
    model = Tensors(draw(0))
    optimizer = PowerGossip(
        model.parameters(), NoCommunicator(), make_topology("ring", 1), **local_options(False)
    )
    state = {"x": draw(0), "buf": np.zeros_like(draw(0))}
    for step in range(3):
        optimizer.zero_grad()
        model.give_gradient(gradients(step, 1)[0])
        optimizer.step()
        state = local_step(state, gradients(step, 1)[0], nesterov=False)
    assert far(model.flat(), state["x"]) < 1e-6


def test_a_message_that_is_not_finite_names_rank_step_and_tensor() -> None:
    topology = make_topology("ring", 2)

    def node(communicator: Communicator) -> None:
        def spoil(model: Tensors, optimizer: PowerGossip) -> None:
            if communicator.rank == 1 and optimizer.num_steps == 3:
                with torch.no_grad():
                    model.tensors[3].view(-1)[2] = torch.inf

        trained(communicator, topology, 5, spoil, lr=0.05)

    with pytest.raises(DivergenceError, match=r"rank 1, step 3: .*\b3\b"):
        Simulation(2).run(node)


def place(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


@pytest.mark.slow
def test_it_learns_digits_as_d_psgd_does(tmp_path: Path) -> None:
    """In 440 steps: rank 1 takes some to carry all that nodes learn."""
    flags = "--backend sim --n_mpi_process 8 --arch mlp --batch_size 8 --lr .03 --num_epochs 20"
    flags += " --lr_schedule_scheme custom_multistep --lr_change_epochs 10,16 --train_fast True"
    own, d_psgd = (
        finished(place(tmp_path, name), *flags.split(), "--optimizer", name)
        for name in ("power_gossip", "sgd")
    )
    assert own["test_top1"] == pytest.approx(d_psgd["test_top1"], abs=1)
    assert 20 * own["bytes_sent_total"] < d_psgd["bytes_sent_total"]
