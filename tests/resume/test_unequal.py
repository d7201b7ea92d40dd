"""Optimizers for unequal data that go on from another run: what they begin with, and keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pcode.communication import ProcessCommunicator, Simulation
from pcode.training.checkpoint import last_step
from pcode.training.loop import run_node
from pcode.training.state import RunState
from pcode.training.sync import StopRequest
from tests.training.kept import GRAPHS, Vectors, check_kept, go_on, plan_of, vectors

Runs = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The folder of a run of 4 nodes by optimizer and graph, of 10 steps.

    With three local steps from one exchange to the next, where that may be: in the midst of them.
    """
    made: dict[tuple[str, str], Path] = {}

    def run(optimizer: str, graph: str) -> Path:
        if (optimizer, graph) not in made:
            flags: dict[str, Any] = {"optimizer": optimizer, "graph_topology": graph}
            flags |= {"stop_criteria": "iteration", "num_iterations": 4 * 10}
            plan = plan_of(
                4, folder=tmp_path_factory.mktemp(optimizer), **flags, **often(optimizer)
            )
            ended = Simulation(4).run(lambda process: run_node(plan, process, StopRequest()))
            made[optimizer, graph] = ended[0][1]
        return made[optimizer, graph]

    return run


def often(optimizer: str) -> dict[str, Any]:
    return {} if optimizer == "decentlam" else {"local_step": 3}


def begun(run: Path, folder: Path, num_nodes: int, num_steps: int, **flags: Any) -> list[Vectors]:
    """What the nodes of a run begin with that goes on from that one, with another rate.

    Raises:
        AssertionError: so many steps later, at an exchange, they have not what they ought to have.
    """
    plan = plan_of(num_nodes, folder=folder, num_epochs=3, resume=str(run), lr=0.2, **flags)

    def node(process: ProcessCommunicator) -> tuple[Vectors, Vectors]:
        state = RunState(plan, process)
        try:
            return vectors(state.node), go_on(state.node, num_steps)
        finally:
            state.records.close()

    start, end = zip(*Simulation(num_nodes).run(node), strict=True)
    check_kept(str(flags["optimizer"]), end, plan.topology.at(0))
    return list(start)


def saved(run: Path) -> list[Vectors]:
    """x and the other vectors of the nodes of a run, in its last checkpoint."""
    step, found = last_step(run), []
    for rank in range(4):
        state = torch.load(run / str(rank) / f"checkpoint_{step}.pt")
        tensors = {"x": state["x"], **state["optimizer"]["vectors"]}
        found.append({name: tensor.double().numpy() for name, tensor in tensors.items()})
    return found


OTHERS = {"relay": "binary_tree", "sgp": "ring"}
# The others are slow: it is the same for all of them.
BY_DEFAULT = ("decentralized_qg_sgd", "gradient_tracking", "sgp")
FEW = [
    pytest.param(each, marks=[] if each in BY_DEFAULT else [pytest.mark.slow]) for each in GRAPHS
]


def check_mean(start: list[Vectors], run: Path) -> None:
    """All begin with the mean model and momentum of a run.

    Raises:
        AssertionError: they do not.
    """
    for name in ("x", "buf"):
        mean = np.mean([node[name] for node in saved(run)], axis=0)
        for node in start:
            np.testing.assert_allclose(node[name], mean, atol=1e-6)


@pytest.mark.parametrize("optimizer", GRAPHS)
def test_more_nodes_on_another_graph_begin_with_the_mean(
    tmp_path: Path, runs: Runs, optimizer: str
) -> None:
    """And with a whole round of local steps."""
    run, graph = runs(optimizer, GRAPHS[optimizer]), OTHERS.get(optimizer, "star")
    flags = {"optimizer": optimizer, "graph_topology": graph, **often(optimizer)}
    check_mean(begun(run, tmp_path, 5, 12, **flags), run)


@pytest.mark.parametrize("optimizer", FEW)
def test_after_d_psgd_all_begin_with_the_mean(tmp_path: Path, runs: Runs, optimizer: str) -> None:
    run = runs("sgd", "ring")
    flags = {"optimizer": optimizer, "graph_topology": GRAPHS[optimizer], **often(optimizer)}
    check_mean(begun(run, tmp_path, 4, 15, **flags), run)


@pytest.mark.parametrize("optimizer", FEW)
def test_with_another_rate_alone_each_has_all_that_it_had(
    tmp_path: Path, runs: Runs, optimizer: str
) -> None:
    run, graph = runs(optimizer, GRAPHS[optimizer]), GRAPHS[optimizer]
    flags = {"optimizer": optimizer, "graph_topology": graph, **often(optimizer)}
    # One of the three steps of a round has been made.
    for node, want in zip(begun(run, tmp_path, 4, 14, **flags), saved(run), strict=True):
        assert node.keys() == want.keys()
        assert all(np.array_equal(node[name], want[name]) for name in want)
