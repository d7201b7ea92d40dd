"""What nodes that are left make of a run: graph, models and what the optimizer keeps."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pcode.communication import ProcessCommunicator, Simulation
from pcode.topology import (
    Directed,
    Lossy,
    Topology,
    make_topology,
    metropolis_weights,
    without_losses,
)
from pcode.training.recovery import regroup
from tests.training.kept import GRAPHS, Vectors, check_kept, go_on, plan_of, trained, vectors

ALL, LEFT = [0, 1, 2, 3, 4], [0, 1, 3, 4]


def lopsided() -> Directed:
    """Five nodes in a circle, each of which keeps another share of what it has."""
    kept = np.diag([0.2, 0.35, 0.5, 0.65, 0.8])
    return Directed("lopsided", kept + np.roll(np.eye(5) - kept, 1, axis=0))


@pytest.mark.parametrize("ranks", [LEFT, ALL], ids=["lost", "diverged"])
@pytest.mark.parametrize("optimizer", GRAPHS)
def test_without_a_node_all_keep_what_the_recursion_rests_on(
    optimizer: str, ranks: list[int]
) -> None:
    """Node 2, the middle of a chain, is lost, or its model is no number: a mean without it."""
    plan = plan_of(5, optimizer=optimizer, graph_topology=GRAPHS[optimizer])
    if optimizer == "sgp":  # whose w differ, as they do not on a graph that has a name
        plan = dataclasses.replace(plan, topology=lopsided())
    old = Simulation(5).run(trained(plan, 7))
    models = np.stack([old[rank].optimizer.x.double().numpy() for rank in LEFT])
    old[2].optimizer.x.fill_(math.nan)

    def node(process: ProcessCommunicator) -> tuple[Vectors, Vectors, list[int]]:
        regrouped = regroup(old[ranks[process.rank]], process, ranks, is_diverged=False)
        assert regrouped is not None
        left, diverged = regrouped
        return vectors(left), go_on(left, 9), diverged

    start, end, diverged = zip(*Simulation(len(ranks)).run(node), strict=True)
    assert all(each == [rank for rank in ranks if rank == 2] for each in diverged)
    for each in start:
        assert all(np.array_equal(each[name], start[0][name]) for name in ("x", "buf"))
        np.testing.assert_allclose(each["x"], models.mean(axis=0), atol=1e-6)
        assert not any(vector.any() for name, vector in each.items() if "received" in name)
        # The momentum that the next local step begins with is the common one.
        assert np.array_equal(each.get("common_buf", each["buf"]), each["buf"])
    check_kept(optimizer, end, plan.for_survivors(ranks).topology.at(0))


def file_of(folder: Path, weights: npt.NDArray[np.float64]) -> str:
    """A graph's file."""
    np.savetxt(file := folder / "graph.txt", weights, fmt="%.18g")
    return str(file)


TREE = [(0, 1), (0, 2), (2, 3), (2, 4), (4, 5)]


@pytest.mark.parametrize(("lost", "edges"), [(5, TREE[:-1]), (2, [(0, 1), (1, 2), (2, 3), (3, 4)])])
def test_what_is_left_of_a_tree_is_a_tree(
    tmp_path: Path, lost: int, edges: list[tuple[int, int]]
) -> None:
    """The rest of it; where that falls apart, a chain, as RelaySGD takes no ring."""
    graph = file_of(tmp_path, metropolis_weights(6, TREE))
    plan = plan_of(6, optimizer="relay", graph_topology=graph, drop_messages=0.1)
    left = plan.for_survivors([rank for rank in range(6) if rank != lost]).topology
    assert isinstance(left, Lossy)
    assert left.probability == 0.1
    whole = without_losses(left)
    assert isinstance(whole, Topology)
    assert list(whole.edges) == edges


def test_what_is_left_of_other_graphs(tmp_path: Path) -> None:
    """The same kind; the rest of a file's, by Metropolis' rule; a ring where that falls apart."""
    flags: dict[str, Any] = {"optimizer": "d2", "exact_diffusion": True}
    plan = plan_of(6, graph_topology="star", **flags)
    assert plan.for_survivors(range(6)) is plan
    left = plan.for_survivors([1, 2, 3, 4, 5]).topology
    assert left.name == "star"
    assert left.degree(0) == 4
    star = make_topology("star", 6).matrix
    plan = plan_of(6, graph_topology=file_of(tmp_path, star), **flags)
    left = plan.for_survivors([0, 1, 2, 3, 5]).topology
    np.testing.assert_array_equal(left.at(0).mix(np.eye(5)), make_topology("star", 5).matrix)
    left = plan.for_survivors([1, 2, 3, 4, 5]).topology
    np.testing.assert_array_equal(left.at(0).mix(np.eye(5)), make_topology("ring", 5).matrix)


def test_d2_gets_a_graph_on_which_it_converges(tmp_path: Path) -> None:
    """What is left of a complete bipartite graph by Metropolis' rule has an eigenvalue of -3/5."""
    edges = [(i, j) for i in range(4) for j in range(4, 9)]
    weights = (np.eye(9) + metropolis_weights(9, edges)) / 2
    plan = plan_of(9, optimizer="d2", graph_topology=file_of(tmp_path, weights))
    left = plan.for_survivors(range(8)).topology
    assert isinstance(left, Topology)
    assert left.name == "chain"
    assert np.linalg.eigvalsh(left.matrix)[0] > -1 / 3
