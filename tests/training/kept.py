"""Short trainings in this process, and what optimizers for unequal data keep whatever happens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pcode.communication import ProcessCommunicator
from pcode.config import make_config
from pcode.topology.base import Mixing
from pcode.training.node import Node
from pcode.training.plan import Plan
from pcode.training.planning import make_plan

Vectors = dict[str, npt.NDArray[np.float64]]

# On the graphs that they are tried on.
GRAPHS = {
    "decentralized_qg_sgd": "ring",
    "d2": "ring",
    "gradient_tracking": "ring",
    "decentlam": "ring",
    "sgp": "directed_exponential",
    "relay": "chain",
    "beer": "ring",
    "motef": "ring",
    "lead": "ring",
}


def plan_of(num_nodes: int, *, folder: Path | None = None, **flags: Any) -> Plan:
    """A plan for simulated nodes, of 400 // (4 n) steps an epoch."""
    task = {"data": "synthetic:1x4x4:4:400", "arch": "mlp", "mlp_hidden_size": 8, "batch_size": 4}
    place = {"backend": "sim", "n_mpi_process": num_nodes, "num_threads": 1}
    place |= {} if folder is None else {"checkpoint": str(folder)}
    return make_plan(make_config(**{**task, **place, **flags}))


def vectors(node: Node) -> Vectors:
    """x and the optimizer's other vectors, once nothing is under way."""
    found = {"x": node.optimizer.x, **node.optimizer.state_dict()["vectors"]}
    return {name: vector.double().numpy().copy() for name, vector in found.items()}


def go_on(node: Node, num_steps: int) -> Vectors:
    """`vectors` after so many steps within an epoch."""
    batches = node.batches_ahead()
    for _ in range(num_steps):
        node.train_step(batches)
    node.finish()
    return vectors(node)


def trained(plan: Plan, num_steps: int) -> Any:
    """What makes, of a process, its node after so many steps, with an exchange under way."""

    def train(process: ProcessCommunicator) -> Node:
        node = Node(plan, process)
        batches = node.batches_ahead()
        for _ in range(num_steps):
            node.train_step(batches)
        return node

    return train


def check_kept(optimizer: str, nodes: Sequence[Vectors], mixing: Mixing) -> None:
    """What an optimizer's recursion rests on holds over all nodes.

    Raises:
        AssertionError: it does not.
    """
    n, W = len(nodes), mixing.mix(np.eye(len(nodes)))

    def all_of(name: str) -> npt.NDArray[np.float64]:
        return np.stack([node[name] for node in nodes])

    def vanishes(sums: npt.NDArray[np.float64], of: npt.NDArray[np.float64]) -> None:
        """But for the rounding of these."""
        assert np.abs(of).max() > 0
        assert np.abs(sums).max() <= 1e-5 * np.abs(of).max()

    x = all_of("x")
    assert np.isfinite(x).all()
    assert np.ptp(x, axis=0).max() > 0  # nodes have data of their own
    match optimizer:
        case "decentralized_qg_sgd":
            assert np.array_equal(all_of("before"), x)
            assert np.array_equal(all_of("common_buf"), all_of("buf"))
        case "d2":
            vanishes(all_of("c").sum(axis=0), all_of("c"))
        case "gradient_tracking":
            y = np.split(all_of("sent"), 2, axis=1)[1]
            vanishes((y - all_of("u")).sum(axis=0), x)
            assert np.abs(y).max() > 0
        case "sgp":
            s, w = np.split(all_of("sent"), [-1], axis=1)
            vanishes(w.sum(axis=0) - n, w)
            vanishes(x - s / w, x)
        case "relay":
            received = [[v for name, v in node.items() if "received" in name] for node in nodes]
            assert [sum(v[-1] for v in each) for each in received] == [n - 1] * n
            for each, vector in zip(x, received, strict=True):  # all are near each other
                assert np.abs(sum(v[:-1] for v in vector) / (n - 1) - each).max() < 1
        case "beer" | "motef":
            for name in ("x", "y"):
                vanishes(all_of(f"z_{name}").sum(axis=0), all_of(f"z_{name}"))
                hat = all_of(f"hat_{name}")
                vanishes(all_of(f"z_{name}") - (W @ hat - hat), hat)
            vanishes((all_of("y") - all_of("d")).sum(axis=0), all_of("d"))
        case "lead":
            vanishes(all_of("e").sum(axis=0), all_of("e"))
            vanishes(all_of("z") - (W @ all_of("h") - all_of("h")), all_of("h"))
