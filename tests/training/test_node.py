"""One node's part in the training loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from pcode.communication import Communicator, Simulation
from pcode.config import make_config
from pcode.training.node import Node
from pcode.training.planning import make_plan

Result = TypeVar("Result")
TEXT: dict[str, Any] = {
    **{"data": "synthetic:text:20:400", "arch": "rnn_lm", "rnn_n_hidden": 4, "rnn_n_layers": 1},
    **{"batch_size": 2, "rnn_bptt_len": 5},
}


def on_a_node(flags: dict[str, Any], use: Callable[[Node], Result]) -> Result:
    """What `use` gives of the only node of a run with these flags."""
    plan = make_plan(make_config(backend="sim", n_mpi_process=1, num_threads=1, **flags))
    return Simulation(1).run(lambda communicator: use(Node(plan, communicator)))[0]


def test_the_state_is_carried_within_an_epoch_and_not_into_the_next() -> None:
    def use(node: Node) -> list[tuple[torch.Tensor, ...] | None]:
        carried = []
        forward = node.task.forward

        def watched(model: Any, inputs: torch.Tensor, state: Any) -> Any:
            carried.append(state)
            return forward(model, inputs, state)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(node, "task", dataclasses.replace(node.task, forward=watched))
            for epoch in range(2):
                node.optimizer.num_steps = epoch * node.plan.steps_per_epoch
                batches = node.batches_ahead()
                for _ in range(3):
                    node.train_step(batches)
        return carried

    carried = on_a_node(TEXT | {"reshuffle_per_epoch": True}, use)
    assert [state is None for state in carried] == [True, False, False, True, False, False]


@pytest.mark.parametrize(
    ("flags", "want"),
    [
        ({"arch": "mlp"}, None),
        ({"arch": "mlp", "clip_grad": True, "clip_grad_val": 3.0}, 3.0),
        (TEXT, 0.25),
        (TEXT | {"rnn_clip": 0.0}, None),
        (TEXT | {"clip_grad": True, "clip_grad_val": 3.0}, 3.0),
        (
            # dgc clips for itself.
            TEXT
            | {"clip_grad": True, "clip_grad_val": 3.0, "optimizer": "dgc"}
            | {"comm_op": "compress_top_k", "graph_topology": "complete"},
            None,
        ),
    ],
)
def test_the_gradient_is_clipped_once(flags: dict[str, Any], want: float | None) -> None:
    assert on_a_node(flags, lambda node: node.clip_norm) == want


def test_the_parts_of_each_step_are_positive_and_within_it() -> None:
    def use(node: Node) -> list[dict[str, float]]:
        batches = node.batches_ahead()
        seconds = []
        for _ in range(4):
            node.train_step(batches)
            seconds.append(node.last_step_seconds)
            node.restart_timer()
        return seconds

    for parts in on_a_node({"arch": "mlp"}, use):
        total = parts.pop("total")
        assert all(part >= 0 for part in parts.values())
        assert sum(parts.values()) <= total


def test_shares_are_dealt_once_an_epoch_for_all_simulated_nodes() -> None:
    plan = make_plan(
        make_config(backend="sim", n_mpi_process=3, arch="mlp", reshuffle_per_epoch=True)
    )

    def node(communicator: Communicator) -> list[int]:
        shares = []
        for epoch in range(2):
            shares.append(id(plan.partition(epoch)))
            communicator.barrier()
        return shares

    first, *others = Simulation(3).run(node)
    assert all(other == first for other in others)
    assert first[0] != first[1]


def test_what_is_put_right_in_files_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "ptb").mkdir()
    for part in ("train", "test"):
        (tmp_path / "ptb" / f"ptb.{part}.txt").write_text("to be or not to be that is all\n")
    (tmp_path / "vectors.vec").write_bytes(b"2 2\nbe 1 2\n\xff 3 4\n")
    graph = tmp_path / "graph.txt"
    graph.write_text("0.333333 0.333333 0.333333\n" * 3)
    flags = {"data": "ptb", "rnn_n_hidden": 2, "batch_size": 1, "rnn_use_pretrained_emb": True}
    files = {"data_dir": str(tmp_path), "graph_topology": str(graph)}
    config = make_config(backend="sim", n_mpi_process=3, **TEXT | flags | files)
    rounded = "its entries are rounded (by up to 1e-06): put right"
    assert make_plan(config).warnings == (
        f"graph file '{graph}': {rounded}",
        f"{tmp_path}/vectors.vec: skipped words that are not UTF-8: 1",
    )
