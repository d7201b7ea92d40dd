"""python -m pcode.tools.unequal, and what it says of every optimizer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from pcode.optim import OPTIMIZERS
from pcode.tools.unequal import (
    METHODS,
    NUM_NODES,
    NUM_UNKNOWNS,
    RATE,
    SLOW_RATE,
    Course,
    Problem,
    follow,
    main,
)
from pcode.topology import make_graph
from pcode.topology.base import Matrix

Predicted = Callable[[Problem], Matrix]
NUM_STEPS = 2000


def _blocks(of_nodes: Matrix) -> Matrix:
    """Return n matrices of d x d as the diagonal blocks of one."""
    num_nodes, size = of_nodes.shape[:2]
    found: Matrix = np.zeros((num_nodes, size, num_nodes, size))
    found[range(num_nodes), :, range(num_nodes)] = of_nodes
    return found.reshape(num_nodes * size, -1)


def _solved(A: Matrix, b: Matrix) -> Matrix:
    return np.linalg.solve(A, b.reshape(-1)).reshape(b.shape).astype(np.float64)


def _mixing(name: str) -> Matrix:
    """Return W for the unknowns of all nodes at once."""
    W = make_graph(name, NUM_NODES).at(0).mix(np.eye(NUM_NODES))
    return np.kron(W, np.eye(NUM_UNKNOWNS)).astype(np.float64)


def mixed_steps(graph: str, rate: float) -> Predicted:
    """Return where x = W (x - rate g(x)) rests."""

    def rest(problem: Problem) -> Matrix:
        lr, W = rate / problem.largest_curvature, _mixing(graph)
        H, identity = _blocks(problem.curvatures), np.eye(len(W))
        c = W @ (lr * problem.constants).reshape(-1)
        return _solved(identity - W @ (identity - lr * H), c.reshape(problem.constants.shape))

    return rest


def steps_beside_mixing(gamma: float) -> Predicted:
    """Return where x = x - gamma (I - W) x - lr g(x) rests, with which compression ends."""

    def rest(problem: Problem) -> Matrix:
        lr, W = RATE / problem.largest_curvature, _mixing("ring")
        pulls = gamma * (np.eye(len(W)) - W) + lr * _blocks(problem.curvatures)
        return _solved(pulls, lr * problem.constants)

    return rest


def local_steps(number: int) -> Predicted:
    """Return where the mean of the nodes' models, each after so many steps of its own, rests."""

    def rest(problem: Problem) -> Matrix:
        lr = RATE / problem.largest_curvature
        factors = np.eye(NUM_UNKNOWNS) - lr * problem.curvatures
        powers = [np.linalg.matrix_power(factors, each) for each in range(number + 1)]
        moved = np.einsum("nij,nj->ni", sum(powers[:-1]), lr * problem.constants).mean(axis=0)
        model = np.linalg.solve(np.eye(NUM_UNKNOWNS) - powers[-1].mean(axis=0), moved)
        return np.tile(model, (NUM_NODES, 1))

    return rest


# What is left of the distance to the common optimum. Where the recursion comes to rest apart from
# it (bias, or the drift of local steps): at the solution of its linear equations. Where it is
# exact: rounding, of float64 or of messages in float32, or what 2,000 steps leave; at most so much.
# Where error feedback keeps the models moving about the optimum: between two bounds.
OUTCOMES: dict[str, Predicted | float | tuple[float, float]] = {
    "all-reduce SGD": 1e-12,
    "all-reduce SGD, 5 local steps": local_steps(5),
    "D-PSGD": mixed_steps("ring", RATE),
    "D-PSGD, momentum": mixed_steps("ring", RATE),
    "quasi-global momentum": mixed_steps("ring", SLOW_RATE),
    "DecentLaM, momentum": mixed_steps("ring", SLOW_RATE),
    "D2": 1e-8,
    "exact diffusion": 1e-12,
    "gradient tracking": 1e-12,
    "Momentum Tracking": 1e-13,
    "SGP": mixed_steps("directed_exponential", RATE),
    "RelaySGD": 1e-4,
    "PowerGossip": steps_beside_mixing(1),
    "CHOCO, sign": steps_beside_mixing(0.1),
    "CHOCO, top 2 of 10": steps_beside_mixing(0.1),
    "BEER, sign": 1e-4,
    "BEER, top 2 of 10": 1e-4,
    "MoTEF, sign": 1e-4,
    "MoTEF, top 2 of 10": 1e-4,
    "LEAD, qsgd 2": 1e-5,
    "DeepSqueeze, sign": (0.5, 1),
    "DCD-PSGD, sign": steps_beside_mixing(1),
    "ECD-PSGD, qsgd 8": steps_beside_mixing(1),
    "AdaGossip, sign": steps_beside_mixing(1),
    "EF-SignSGD": (5e-3, 5e-2),
    "DGC, top 2 of 10": (5e-3, 5e-2),
}
# One of each kind; the others are slow.
BY_DEFAULT = ("DecentLaM, momentum", "exact diffusion", "gradient tracking", "BEER, sign")


@cache
def course(title: str) -> Course:
    torch.set_num_threads(1)
    (method,) = (each for each in METHODS if each.title == title)
    return follow(method, Problem(0), NUM_STEPS)


def test_every_optimizer_has_an_outcome() -> None:
    assert {each.title for each in METHODS} == OUTCOMES.keys()
    assert {each.optimizer for each in METHODS} == OPTIMIZERS.keys()


@pytest.mark.parametrize(
    "title",
    [pytest.param(each, marks=() if each in BY_DEFAULT else pytest.mark.slow) for each in OUTCOMES],
)
def test_its_outcome_is_that_of_its_recursion(title: str) -> None:
    outcome, error = OUTCOMES[title], course(title).errors[-1]
    if isinstance(outcome, float):
        assert error < outcome
    elif isinstance(outcome, tuple):
        assert outcome[0] < error < outcome[1]
    else:
        problem = Problem(0)
        assert error == pytest.approx(problem.error(outcome(problem)), rel=1e-3)


@pytest.mark.parametrize(
    ("title", "factor"),
    [
        ("exact diffusion", 1e-2),
        ("gradient tracking", 1e-2),
        ("BEER, sign", 1e-1),
        pytest.param("MoTEF, sign", 1e-1, marks=pytest.mark.slow),
        pytest.param("D2", 1e-2, marks=pytest.mark.slow),
        pytest.param("RelaySGD", 1e-1, marks=pytest.mark.slow),
    ],
)
def test_what_is_exact_comes_closer_as_long_as_it_goes_on(title: str, factor: float) -> None:
    """By a factor that does not change, down to what rounding leaves."""
    found = course(title)
    quarter, half = (
        found.errors[np.searchsorted(found.steps, NUM_STEPS // part)] for part in (4, 2)
    )
    assert half < factor * quarter


def test_the_optimum_is_where_the_gradients_cancel() -> None:
    problem = Problem(3)
    gradients = problem.curvatures @ problem.optimum - problem.constants
    assert np.abs(gradients.sum(axis=0)).max() < 1e-9 * np.abs(gradients).max()
    assert np.abs(gradients).min() > 1e-3


@pytest.mark.parametrize(("title", "times"), [("exact diffusion", 10), ("D-PSGD", 1)])
def test_stochastic_gradients_leave_more_the_noisier_they_are(title: str, times: int) -> None:
    """In proportion to the noise, as all is linear; but beside a larger bias it does not count."""
    torch.set_num_threads(1)
    (method,) = (each for each in METHODS if each.title == title)
    found = [follow(method, Problem(0), 900, noise).errors[-1] for noise in (0.01, 0.1)]
    assert found[1] / found[0] == pytest.approx(times, rel=0.05)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "errors.png"
    assert main(["--steps", "3", "--picture", str(picture)]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [title for title, *_ in rows] == [each.title for each in METHODS]
    # Ten numbers of 4 bytes to two neighbours.
    assert ["D-PSGD", "ring", "80"] in [[title, graph, sent] for title, graph, _, _, sent in rows]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--steps", "0", "--picture", str(tmp_path / "errors.png")]) == 2
    assert capsys.readouterr().err == "unequal: error: --steps 0: must be at least 1, and finite\n"
    assert list(tmp_path.iterdir()) == []
